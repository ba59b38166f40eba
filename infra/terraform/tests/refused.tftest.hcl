# Values that are refused before anything is asked of AWS. A run breaks several variables, each in one way.

mock_provider "aws" {
  source          = "./tests/aws"
  override_during = plan
}

variables {
  region = "eu-central-1"
}

run "names_and_places_that_aws_would_refuse" {
  command = plan

  variables {
    region      = "Frankfurt"
    name        = "Regrow_Lab"
    vpc_cidr    = "10.0.0.0/24"
    bucket_name = "models.example.com" # a dot breaks TLS
    images      = ["Tune"]
    network     = { vpc_id = "vpc-0f0f", private_subnets = { "eu-central-1a" = "subnet-0aa" } } # one zone
  }

  expect_failures = [var.region, var.name, var.vpc_cidr, var.bucket_name, var.images, var.network]
}

run "doors_that_stand_open" {
  command = plan

  variables {
    api_access_cidrs = ["0.0.0.0/0"]
    cluster_admins   = ["platform"] # no ARN
    namespace        = "kube-system"
    service_accounts = { step = "default" }
    secrets          = { hub-token = "everyone" }
  }

  expect_failures = [var.api_access_cidrs, var.cluster_admins, var.namespace, var.service_accounts, var.secrets]
}

run "two_things_in_one" {
  command = plan

  variables {
    cluster_admins   = ["arn:aws:iam::111122223333:role/platform"]
    cluster_users    = ["arn:aws:iam::111122223333:role/platform"]
    service_accounts = { step = "mlflow" }
    zones            = ["eu-central-1a", "eu-central-1a"]
    gpu_pools        = { gpu = { instance_types = ["p5.4xlarge"], gpus = 1, accelerator = "nvidia-h100", spot = true, capacity_reservation_id = "cr-0a" } }
  }

  expect_failures = [var.cluster_users, var.service_accounts, var.zones, var.gpu_pools]
}

run "numbers_out_of_range" {
  command = plan

  variables {
    kubernetes_version = "1.20"
    cpu_pool           = { min_nodes = 0 } # no node for the servers
    gpu_pools          = { gpu = { instance_types = ["p5.4xlarge"], gpus = 1, accelerator = "nvidia-h100", min_nodes = 3, max_nodes = 1 } }
    scratch_days       = 0
    old_version_days   = 0.5
    log_retention_days = 10
    databases          = { mlflow = { backup_days = 0 } }
  }

  expect_failures = [
    var.kubernetes_version, var.cpu_pool, var.gpu_pools, var.scratch_days, var.old_version_days, var.log_retention_days, var.databases,
  ]
}

run "disks_on_which_the_model_does_not_fit" {
  command = plan

  variables {
    model_gib = 140
  }

  expect_failures = [var.cpu_pool, var.gpu_pools]
}

run "a_gpu_pool_without_gpus_and_zones_of_another_region" {
  command = plan

  variables {
    gpu_pools = { gpu = { instance_types = ["m7i.2xlarge"], gpus = 1, accelerator = "none" } }
    zones     = ["us-east-1a", "us-east-1b"]
    databases = { grafana = {} }
  }

  expect_failures = [var.gpu_pools, var.zones, var.databases]
}

run "a_gpu_pool_on_arm" {
  command = plan

  variables {
    gpu_pools = { gpu = { instance_types = ["g5g.2xlarge"], gpus = 1, accelerator = "nvidia-t4g" } }
  }

  expect_failures = [var.gpu_pools]
}

run "a_bucket_name_that_grows_too_long" {
  command = plan

  variables {
    region = "xx-imaginary-and-very-far-away-1"
    zones  = ["xx-imaginary-and-very-far-away-1a", "xx-imaginary-and-very-far-away-1b"]
    name   = "regrow-of-the-laboratory"
  }

  expect_failures = [aws_s3_bucket.artifacts]
}

# What AWS would answer, where policies and outputs are made of it. Everything else is made up by Terraform.

mock_data "aws_partition" {
  defaults = {
    partition  = "aws"
    dns_suffix = "amazonaws.com"
  }
}

mock_data "aws_caller_identity" {
  defaults = {
    account_id = "111122223333"
  }
}

mock_data "aws_availability_zones" {
  defaults = {
    names = ["eu-central-1d", "eu-central-1b", "eu-central-1a", "eu-central-1c"]
  }
}

mock_resource "aws_vpc" {
  defaults = {
    id = "vpc-0a"
  }
}

mock_resource "aws_subnet" {
  defaults = {
    id = "subnet-0a"
  }
}

mock_resource "aws_kms_key" {
  defaults = {
    arn    = "arn:aws:kms:eu-central-1:111122223333:key/0a0a"
    key_id = "0a0a"
  }
}

mock_resource "aws_eks_cluster" {
  defaults = {
    arn      = "arn:aws:eks:eu-central-1:111122223333:cluster/regrow"
    identity = [{ oidc = [{ issuer = "https://oidc.eks.eu-central-1.amazonaws.com/id/0A" }] }]
    vpc_config = {
      cluster_security_group_id = "sg-0c"
    }
  }
}

mock_resource "aws_launch_template" {
  defaults = {
    id = "lt-0a"
  }
}

mock_resource "aws_eks_node_group" {
  defaults = {
    resources = [{ autoscaling_groups = [{ name = "eks-regrow-gpu-0a" }] }]
  }
}

mock_resource "aws_iam_openid_connect_provider" {
  defaults = {
    arn = "arn:aws:iam::111122223333:oidc-provider/oidc.eks.eu-central-1.amazonaws.com/id/0A"
  }
}

mock_resource "aws_iam_role" {
  defaults = {
    arn = "arn:aws:iam::111122223333:role/mocked"
  }
}

mock_resource "aws_secretsmanager_secret" {
  defaults = {
    arn = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:mocked-0a"
  }
}

mock_resource "aws_db_instance" {
  defaults = {
    address            = "mocked.eu-central-1.rds.amazonaws.com"
    master_user_secret = [{ kms_key_id = "0a0a", secret_arn = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:rds-0a", secret_status = "active" }]
  }
}

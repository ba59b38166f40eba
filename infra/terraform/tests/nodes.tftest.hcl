# Pools of nodes: who may run there, how they grow from nothing, and whether weights fit on their disks.

mock_provider "aws" {
  source          = "./tests/aws"
  override_during = plan
}

variables {
  region = "eu-central-1"
}

run "gpu_nodes_come_when_asked_for" {
  command = plan

  assert {
    condition = one(aws_eks_node_group.gpu["gpu"].taint) == {
      key    = "nvidia.com/gpu"
      value  = "true"
      effect = "NO_SCHEDULE"
    }
    error_message = "Pods without a GPU must not land on GPU nodes."
  }

  assert {
    condition     = aws_eks_node_group.gpu["gpu"].scaling_config[0].min_size == 0 && aws_eks_node_group.gpu["gpu"].scaling_config[0].desired_size == 0
    error_message = "An idle GPU pool must have no node."
  }

  assert {
    condition = aws_eks_node_group.gpu["gpu"].labels == tomap({
      "regrow/pool"                   = "gpu"
      "k8s.amazonaws.com/accelerator" = "nvidia-h100"
      "nvidia.com/gpu.present"        = "true"
    })
    error_message = "Pods choose the pool by regrow/pool; the autoscaler and the device plugin know GPU nodes by the others."
  }

  assert {
    condition     = aws_eks_node_group.gpu["gpu"].ami_type == "AL2023_x86_64_NVIDIA" && aws_eks_node_group.gpu["gpu"].capacity_type == "ON_DEMAND"
    error_message = "GPU nodes need the NVIDIA image, and are on demand unless spot is asked for."
  }

  assert {
    condition     = aws_eks_node_group.cpu.scaling_config[0].min_size == 1 && length(aws_eks_node_group.cpu.taint) == 0
    error_message = "The servers and the autoscaler need a node that takes every pod."
  }
}

run "the_autoscaler_knows_a_node_before_there_is_one" {
  command = plan

  assert {
    condition = { for tag in aws_autoscaling_group_tag.gpu : one(tag.tag).key => one(tag.tag).value } == {
      "k8s.io/cluster-autoscaler/node-template/resources/ephemeral-storage"         = "255Gi"
      "k8s.io/cluster-autoscaler/node-template/resources/nvidia.com/gpu"            = "1"
      "k8s.io/cluster-autoscaler/node-template/taint/nvidia.com/gpu"                = "true:NoSchedule"
      "k8s.io/cluster-autoscaler/node-template/label/regrow/pool"                   = "gpu"
      "k8s.io/cluster-autoscaler/node-template/label/k8s.amazonaws.com/accelerator" = "nvidia-h100"
      "k8s.io/cluster-autoscaler/node-template/label/nvidia.com/gpu.present"        = "true"
    }
    error_message = "Without these tags a pod that asks for disk never gets a first node."
  }
}

run "disks_and_metadata" {
  command = plan

  assert {
    condition = alltrue([
      for template in [aws_launch_template.cpu, aws_launch_template.gpu["gpu"]] :
      template.metadata_options[0].http_tokens == "required" && template.metadata_options[0].http_put_response_hop_limit == 1
    ])
    error_message = "A pod must not be able to read its node's credentials."
  }

  assert {
    condition = alltrue([
      for template in [aws_launch_template.cpu, aws_launch_template.gpu["gpu"]] :
      template.block_device_mappings[0].ebs[0].encrypted == "true" && template.block_device_mappings[0].ebs[0].delete_on_termination == "true"
    ])
    error_message = "Disks of nodes must be encrypted and go with the node."
  }

  assert {
    condition     = aws_launch_template.gpu["gpu"].block_device_mappings[0].ebs[0].volume_size == 300 && aws_launch_template.gpu["gpu"].user_data == null
    error_message = "The disk of a GPU node must have the size that was asked for."
  }
}

run "spot_pools_on_local_disks_in_chosen_zones" {
  command = plan

  variables {
    zones     = ["eu-central-1a", "eu-central-1b"]
    model_gib = 140
    cpu_pool  = { disk_gib = 600 }
    gpu_pools = {
      big = {
        instance_types = ["p4de.24xlarge", "p4d.24xlarge"]
        gpus           = 8
        accelerator    = "nvidia-a100"
        local_disk_gib = 7000
        spot           = true
        max_nodes      = 3
        zones          = ["eu-central-1b"]
      }
      reserved = {
        instance_types          = ["p5.48xlarge"]
        gpus                    = 8
        accelerator             = "nvidia-h100"
        disk_gib                = 1000
        capacity_reservation_id = "cr-0a"
      }
    }
  }

  assert {
    condition     = aws_eks_node_group.gpu["big"].capacity_type == "SPOT" && aws_eks_node_group.gpu["reserved"].capacity_type == "ON_DEMAND"
    error_message = "spot must be set for the pool that asks for it, and no other."
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.gpu["big"].user_data), "strategy: RAID0")
    error_message = "local_disk_gib must put pods on the instance's own disks."
  }

  assert {
    condition     = output.gpu_pools["big"].ephemeral_storage == "5950Gi" && output.gpu_pools["reserved"].ephemeral_storage == "850Gi"
    error_message = "Pods may ask for 85 % of the disk that they are on."
  }

  assert {
    condition     = local.gpu_pools["big"].subnets == [local.private_subnets["eu-central-1b"]] && length(local.gpu_pools["reserved"].subnets) == 2
    error_message = "A pool must stay in the zones that it names."
  }

  assert {
    condition     = aws_launch_template.gpu["reserved"].capacity_reservation_specification[0].capacity_reservation_target[0].capacity_reservation_id == "cr-0a"
    error_message = "A reservation must be taken by the pool that names it."
  }

  assert {
    condition     = length(aws_autoscaling_group_tag.gpu) == 12
    error_message = "Each pool has its own six tags."
  }
}

run "a_zone_that_the_network_lacks_is_refused" {
  command = plan

  variables {
    zones = ["eu-central-1a", "eu-central-1b"]
    gpu_pools = {
      gpu = { instance_types = ["g6e.2xlarge"], gpus = 1, accelerator = "nvidia-l40s", zones = ["eu-central-1c"] }
    }
  }

  expect_failures = [aws_eks_node_group.gpu["gpu"]]
}

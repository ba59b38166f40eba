# GPU node pools. A pool has no node until a pod asks for its GPUs and tolerates its taint; the cluster
# autoscaler (docs/terraform.md) adds one then, and takes it away when it is idle.

locals {
  gpu_taint = { key = "nvidia.com/gpu", value = "true" }

  gpu_pools = {
    for name, pool in var.gpu_pools : name => merge(pool, {
      labels = {
        "regrow/pool" = name
        # The autoscaler waits for the GPU of a new node that has this label, instead of adding a second node.
        "k8s.amazonaws.com/accelerator" = pool.accelerator
        # NVIDIA's device plugin goes to nodes with this label, which a feature discovery would set otherwise.
        "nvidia.com/gpu.present" = "true"
      }
      # What is left for pods: the kubelet evicts from 90 % on and keeps something for itself.
      ephemeral_gib = floor((pool.local_disk_gib > 0 ? pool.local_disk_gib : pool.disk_gib) * 0.85)
      subnets       = [for zone, subnet in local.private_subnets : subnet if length(pool.zones) == 0 || contains(pool.zones, zone)]
    })
  }

  # What the autoscaler must know of a node before there is one. It reads a managed group's labels and taints
  # from EKS, but nothing tells it the disk: without this tag a pod that requests ephemeral-storage waits for ever.
  gpu_tags = merge([
    for name, pool in local.gpu_pools : merge(
      {
        "${name} disk"  = { pool = name, key = "resources/ephemeral-storage", value = "${pool.ephemeral_gib}Gi" }
        "${name} gpus"  = { pool = name, key = "resources/nvidia.com/gpu", value = tostring(pool.gpus) }
        "${name} taint" = { pool = name, key = "taint/${local.gpu_taint.key}", value = "${local.gpu_taint.value}:NoSchedule" }
      },
      { for label, value in pool.labels : "${name} ${label}" => { pool = name, key = "label/${label}", value = value } },
    )
  ]...)

  # The kubelet's and containerd's folders on the instance's own NVMe disks, as one RAID 0.
  local_disks = <<-EOT
    MIME-Version: 1.0
    Content-Type: multipart/mixed; boundary="regrow"

    --regrow
    Content-Type: application/node.eks.aws

    apiVersion: node.eks.aws/v1alpha1
    kind: NodeConfig
    spec:
      instance:
        localStorage:
          strategy: RAID0

    --regrow--
  EOT
}

resource "aws_launch_template" "gpu" {
  for_each               = local.gpu_pools
  name_prefix            = "${var.name}-${each.key}-"
  update_default_version = true
  user_data              = each.value.local_disk_gib > 0 ? base64encode(local.local_disks) : null

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_type           = "gp3"
      volume_size           = each.value.disk_gib
      throughput            = 500 # MiB/s; weights are read from and written to this disk
      iops                  = 4000
      encrypted             = true
      delete_on_termination = true
    }
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  dynamic "capacity_reservation_specification" {
    for_each = each.value.capacity_reservation_id == null ? [] : [each.value.capacity_reservation_id]

    content {
      capacity_reservation_target {
        capacity_reservation_id = capacity_reservation_specification.value
      }
    }
  }

  tag_specifications {
    resource_type = "instance"
    tags          = { Name = "${var.name}-${each.key}" }
  }
}

resource "aws_eks_node_group" "gpu" {
  for_each        = local.gpu_pools
  cluster_name    = aws_eks_cluster.main.name
  node_group_name = "${var.name}-${each.key}"
  node_role_arn   = aws_iam_role.node.arn
  subnet_ids      = each.value.subnets
  version         = aws_eks_cluster.main.version
  ami_type        = "AL2023_x86_64_NVIDIA" # with driver and container toolkit; the device plugin comes into the cluster
  capacity_type   = each.value.spot ? "SPOT" : "ON_DEMAND"
  instance_types  = each.value.instance_types
  labels          = each.value.labels

  taint {
    key    = local.gpu_taint.key
    value  = local.gpu_taint.value
    effect = "NO_SCHEDULE"
  }

  launch_template {
    id      = aws_launch_template.gpu[each.key].id
    version = aws_launch_template.gpu[each.key].latest_version
  }

  scaling_config {
    min_size     = each.value.min_nodes
    max_size     = each.value.max_nodes
    desired_size = each.value.min_nodes
  }

  update_config {
    max_unavailable = 1
  }

  lifecycle {
    ignore_changes = [scaling_config[0].desired_size]

    precondition {
      condition     = length(each.value.subnets) > 0 && alltrue([for zone in each.value.zones : contains(local.zones, zone)])
      error_message = "GPU pool ${each.key}: its zones must be among those of the network (${join(", ", local.zones)})."
    }
  }

  depends_on = [aws_iam_role_policy_attachment.node, aws_eks_addon.network, aws_eks_addon.proxy]
}

resource "aws_autoscaling_group_tag" "gpu" {
  for_each               = local.gpu_tags
  autoscaling_group_name = aws_eks_node_group.gpu[each.value.pool].resources[0].autoscaling_groups[0].name

  tag {
    key                 = "k8s.io/cluster-autoscaler/node-template/${each.value.key}"
    value               = each.value.value
    propagate_at_launch = false
  }
}

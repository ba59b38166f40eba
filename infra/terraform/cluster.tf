# The EKS cluster, who may enter it, its add-ons, and the nodes without a GPU.

locals {
  cluster_log_group = "/aws/eks/${var.name}/cluster"
  cluster_entries = merge(
    { for arn in var.cluster_admins : arn => { policy = "AmazonEKSClusterAdminPolicy", namespaces = [] } },
    { for arn in var.cluster_users : arn => { policy = "AmazonEKSEditPolicy", namespaces = [var.namespace] } },
  )
}

resource "aws_cloudwatch_log_group" "cluster" {
  name              = local.cluster_log_group # EKS writes to this name and would make it without key and end
  retention_in_days = var.log_retention_days
  kms_key_id        = aws_kms_key.main.arn
}

resource "aws_eks_cluster" "main" {
  name     = var.name
  role_arn = aws_iam_role.cluster.arn
  version  = var.kubernetes_version

  enabled_cluster_log_types     = ["api", "audit", "authenticator"]
  bootstrap_self_managed_addons = false # they are add-ons below

  access_config {
    authentication_mode = "API"
    # With no admin named, the cluster would have none.
    bootstrap_cluster_creator_admin_permissions = length(var.cluster_admins) == 0
  }

  vpc_config {
    subnet_ids              = values(local.private_subnets)
    endpoint_private_access = true
    endpoint_public_access  = length(var.api_access_cidrs) > 0
    public_access_cidrs     = length(var.api_access_cidrs) > 0 ? var.api_access_cidrs : null
  }

  encryption_config {
    resources = ["secrets"]

    provider {
      key_arn = aws_kms_key.main.arn
    }
  }

  upgrade_policy {
    support_type = "STANDARD" # no extended support, which bills the cluster several times over
  }

  depends_on = [aws_iam_role_policy_attachment.cluster, aws_cloudwatch_log_group.cluster]
}

resource "aws_eks_access_entry" "person" {
  for_each      = local.cluster_entries
  cluster_name  = aws_eks_cluster.main.name
  principal_arn = each.key
}

resource "aws_eks_access_policy_association" "person" {
  for_each      = local.cluster_entries
  cluster_name  = aws_eks_cluster.main.name
  principal_arn = aws_eks_access_entry.person[each.key].principal_arn
  policy_arn    = "arn:${local.partition}:eks::aws:cluster-access-policy/${each.value.policy}"

  access_scope {
    type       = length(each.value.namespaces) > 0 ? "namespace" : "cluster"
    namespaces = each.value.namespaces
  }
}

# Nodes are not Ready without these two; the others need nodes.
resource "aws_eks_addon" "network" {
  cluster_name             = aws_eks_cluster.main.name
  addon_name               = "vpc-cni"
  service_account_role_arn = aws_iam_role.pod["network"].arn
  configuration_values     = jsonencode({ enableNetworkPolicy = "true" }) # else NetworkPolicies are accepted and ignored

  depends_on = [aws_iam_role_policy_attachment.pod]
}

resource "aws_eks_addon" "proxy" {
  cluster_name = aws_eks_cluster.main.name
  addon_name   = "kube-proxy"
}

resource "aws_eks_addon" "dns" {
  cluster_name = aws_eks_cluster.main.name
  addon_name   = "coredns"

  depends_on = [aws_eks_node_group.cpu]
}

resource "aws_eks_addon" "volumes" {
  cluster_name             = aws_eks_cluster.main.name
  addon_name               = "aws-ebs-csi-driver"
  service_account_role_arn = aws_iam_role.pod["volumes"].arn

  # Its node pods also go to GPU nodes: they tolerate every taint from the start.
  depends_on = [aws_eks_node_group.cpu, aws_iam_role_policy_attachment.pod]
}

resource "aws_launch_template" "cpu" {
  name_prefix            = "${var.name}-cpu-"
  update_default_version = true

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_type           = "gp3"
      volume_size           = var.cpu_pool.disk_gib
      encrypted             = true
      delete_on_termination = true
    }
  }

  # One hop: the node reads its credentials, a pod can not. Pods have roles of their own.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  tag_specifications {
    resource_type = "instance"
    tags          = { Name = "${var.name}-cpu" }
  }
}

resource "aws_eks_node_group" "cpu" {
  cluster_name    = aws_eks_cluster.main.name
  node_group_name = "${var.name}-cpu"
  node_role_arn   = aws_iam_role.node.arn
  subnet_ids      = values(local.private_subnets)
  version         = aws_eks_cluster.main.version
  ami_type        = "AL2023_x86_64_STANDARD"
  instance_types  = var.cpu_pool.instance_types
  labels          = { "regrow/pool" = "cpu" }

  launch_template {
    id      = aws_launch_template.cpu.id
    version = aws_launch_template.cpu.latest_version
  }

  scaling_config {
    min_size     = var.cpu_pool.min_nodes
    max_size     = var.cpu_pool.max_nodes
    desired_size = var.cpu_pool.min_nodes
  }

  update_config {
    max_unavailable = 1
  }

  lifecycle {
    ignore_changes = [scaling_config[0].desired_size] # the autoscaler's
  }

  depends_on = [aws_iam_role_policy_attachment.node, aws_eks_addon.network, aws_eks_addon.proxy]
}

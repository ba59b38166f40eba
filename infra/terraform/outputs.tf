output "region" {
  description = "AWS region."
  value       = var.region
}

output "cluster_name" {
  description = "Name of the EKS cluster."
  value       = aws_eks_cluster.main.name
}

output "cluster_context" {
  description = "Name that the kubeconfig context gets from kubeconfig_command."
  value       = var.name
}

output "kubeconfig_command" {
  description = "Command that writes the kubeconfig context."
  value       = "aws eks update-kubeconfig --region ${var.region} --name ${var.name} --alias ${var.name}"
}

output "namespace" {
  description = "Kubernetes namespace that the service accounts' roles are bound to."
  value       = var.namespace
}

output "bucket" {
  description = "Name of the bucket."
  value       = local.bucket
}

output "artifact_uri" {
  description = "Path of ZenML's artifact store."
  value       = "s3://${local.bucket}/zenml"
}

output "mlflow_artifact_uri" {
  description = "Where the MLflow server keeps artifacts (--artifacts-destination)."
  value       = "s3://${local.bucket}/mlflow"
}

output "scratch_uri" {
  description = "Prefix whose objects are deleted after scratch_days."
  value       = "s3://${local.bucket}/scratch"
}

output "registry_uri" {
  description = "Address of the container registry."
  value       = local.registry
}

output "image_registry" {
  description = "Where images are pushed: the --registry of python -m infra.docker build."
  value       = "${local.registry}/${var.name}"
}

output "repositories" {
  description = "Image repositories by image."
  value       = { for image, tags in local.repositories : image => "${local.registry}/${var.name}/${image}" }
}

output "service_accounts" {
  description = "Service accounts of the namespace: name, and the annotation that gives a pod its role."
  value = {
    for identity, account in var.service_accounts : identity => {
      name        = account
      annotations = { "eks.amazonaws.com/role-arn" = aws_iam_role.pod[identity].arn }
    }
  }
}

output "autoscaler_role_arn" {
  description = "Role of kube-system/cluster-autoscaler."
  value       = aws_iam_role.pod["autoscaler"].arn
}

output "client_policy_arn" {
  description = "Policy for the people and CI jobs that submit pipelines."
  value       = aws_iam_policy.client.arn
}

output "gpu_pools" {
  description = "For each GPU pool: node selectors and tolerations of its pods, GPUs of a node, and the ephemeral storage that a pod may ask for."
  value = {
    for name, pool in local.gpu_pools : name => {
      node_selectors    = { "regrow/pool" = name }
      tolerations       = [{ key = local.gpu_taint.key, operator = "Exists", effect = "NoSchedule" }]
      gpus_per_node     = pool.gpus
      ephemeral_storage = "${pool.ephemeral_gib}Gi"
      accelerator       = pool.accelerator
      max_nodes         = pool.max_nodes
      spot              = pool.spot
    }
  }
}

output "databases" {
  description = "Databases by server: address, port, name, and the ARN of the secret that holds user and password."
  value = {
    for name, database in aws_db_instance.server : name => {
      engine     = database.engine
      host       = database.address
      port       = database.port
      database   = database.db_name
      secret_arn = database.master_user_secret[0].secret_arn
    }
  }
}

output "secrets" {
  description = "ARNs of the empty secrets, to be filled by hand."
  value       = { for name, secret in aws_secretsmanager_secret.named : name => secret.arn }
}

output "stack" {
  description = "What infra/stacks/kubernetes.yaml needs, in the words of ZenML's components."
  value = {
    artifact_store     = { path = "s3://${local.bucket}/zenml" }
    container_registry = { uri = local.registry, default_repository = "${var.name}/zenml" }
    orchestrator = {
      kubernetes_context            = var.name
      kubernetes_namespace          = var.namespace
      service_account_name          = var.service_accounts.orchestrator
      step_pod_service_account_name = var.service_accounts.step
      pod_settings                  = { node_selectors = { "regrow/pool" = "cpu" } }
    }
    step_operators = {
      for name, pool in local.gpu_pools : name => {
        kubernetes_namespace = var.namespace
        service_account_name = var.service_accounts.step
        incluster            = true
        pod_settings = {
          node_selectors = { "regrow/pool" = name }
          tolerations    = [{ key = local.gpu_taint.key, operator = "Exists", effect = "NoSchedule" }]
        }
      }
    }
  }
}

# Least privilege, read from the policies' JSON.

mock_provider "aws" {
  source          = "./tests/aws"
  override_during = plan
}

variables {
  region = "eu-central-1"
}

run "a_role_is_taken_by_its_service_account_alone" {
  command = plan

  assert {
    condition = {
      for name, role in aws_iam_role.pod : name => one(jsondecode(role.assume_role_policy).Statement).Condition.StringEquals["oidc.eks.eu-central-1.amazonaws.com/id/0A:sub"]
      } == {
      orchestrator = "system:serviceaccount:regrow:regrow-orchestrator"
      step         = "system:serviceaccount:regrow:regrow-step"
      builder      = "system:serviceaccount:regrow:regrow-builder"
      mlflow       = "system:serviceaccount:regrow:mlflow"
      zenml        = "system:serviceaccount:regrow:zenml"
      autoscaler   = "system:serviceaccount:kube-system:cluster-autoscaler"
      network      = "system:serviceaccount:kube-system:aws-node"
      volumes      = "system:serviceaccount:kube-system:ebs-csi-controller-sa"
    }
    error_message = "Each role must name one service account of one namespace, without wildcards."
  }

  assert {
    condition = alltrue([
      for role in aws_iam_role.pod : alltrue([
        one(jsondecode(role.assume_role_policy).Statement).Action == ["sts:AssumeRoleWithWebIdentity"],
        one(jsondecode(role.assume_role_policy).Statement).Condition.StringEquals["oidc.eks.eu-central-1.amazonaws.com/id/0A:aud"] == "sts.amazonaws.com",
      ])
    ])
    error_message = "Roles are taken with the cluster's tokens only."
  }
}

run "steps_touch_their_prefixes_and_nothing_else_of_the_bucket" {
  command = plan

  assert {
    condition = toset(flatten([
      for statement in jsondecode(aws_iam_role_policy.pod["step"].policy).Statement : statement.Resource
      if anytrue([for action in statement.Action : contains(["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], action)])
      ])) == toset([
      "arn:aws:s3:::regrow-111122223333-eu-central-1/zenml/*",
      "arn:aws:s3:::regrow-111122223333-eu-central-1/scratch/*",
    ])
    error_message = "A step reads and writes zenml/ and scratch/ only."
  }

  assert {
    condition = toset(flatten([
      for statement in jsondecode(aws_iam_role_policy.pod["step"].policy).Statement : statement.Condition.StringLikeIfExists["s3:prefix"] if contains(statement.Action, "s3:ListBucket")
    ])) == toset(["zenml", "zenml/*", "scratch", "scratch/*"])
    error_message = "A step lists its prefixes only."
  }

  assert {
    condition = alltrue([
      for statement in jsondecode(aws_iam_role_policy.pod["step"].policy).Statement : statement.Resource == ["arn:aws:s3:::regrow-111122223333-eu-central-1/zenml/logs/*"]
      if contains(statement.Action, "s3:DeleteObjectVersion")
    ])
    error_message = "A step must not be able to delete a model for good."
  }

  assert {
    condition     = anytrue([for statement in jsondecode(aws_iam_role_policy.pod["step"].policy).Statement : contains(statement.Action, "s3:GetBucketLocation")])
    error_message = "s3fs asks for the location to learn whether there is a bucket."
  }
}

run "no_pod_has_a_star" {
  command = plan

  assert {
    condition = alltrue(flatten([
      for name, policy in merge({ for name, one in aws_iam_role_policy.pod : name => one.policy }, { client = aws_iam_policy.client.policy }) : [
        for statement in jsondecode(policy).Statement : [
          for action in statement.Action : !strcontains(action, "*") && !startswith(action, "iam:") && !startswith(action, "sts:")
        ]
      ]
    ]))
    error_message = "Actions must be named one by one, and none may change who may do what."
  }

  assert {
    condition = toset(flatten([
      for name, policy in merge({ for name, one in aws_iam_role_policy.pod : name => one.policy }, { client = aws_iam_policy.client.policy }) : [
        for statement in jsondecode(policy).Statement : statement.Sid if contains(statement.Resource, "*")
      ]
    ])) == toset(["RegistryLogin", "Look"])
    error_message = "Only actions that know no resource may have all of them."
  }

  assert {
    condition = alltrue(flatten([
      for one in values(aws_iam_role_policy.pod) : [
        for statement in jsondecode(one.policy).Statement : [
          for action in statement.Action : !startswith(action, "kms:") || can(statement.Condition.StringEquals["kms:ViaService"])
        ]
      ]
    ]))
    error_message = "The key is used through S3 and Secrets Manager only."
  }
}

run "each_identity_does_its_own_work" {
  command = plan

  assert {
    condition     = [for name, one in aws_iam_role_policy.pod : name if strcontains(one.policy, "ecr:PutImage")] == ["builder"]
    error_message = "Only the builder pushes images."
  }

  assert {
    condition     = toset([for name, one in aws_iam_role_policy.pod : name if strcontains(one.policy, "ecr:BatchGetImage")]) == toset(["builder", "orchestrator", "step"])
    error_message = "Orchestrator, steps and builder pull images."
  }

  assert {
    condition     = toset([for name, one in aws_iam_role_policy.pod : name if strcontains(one.policy, "s3:PutObject")]) == toset(["orchestrator", "step", "mlflow"])
    error_message = "The ZenML server reads artifacts and writes none."
  }

  assert {
    condition     = toset([for name, one in aws_iam_role_policy.pod : name if strcontains(one.policy, "secretsmanager:GetSecretValue")]) == toset(["step", "mlflow", "zenml"])
    error_message = "An identity without secrets reads none."
  }

  assert {
    condition     = [for name, one in aws_iam_role_policy.pod : name if strcontains(one.policy, "/mlflow/")] == ["mlflow"]
    error_message = "Only the MLflow server touches mlflow/, unless steps are told to write it."
  }

  assert {
    condition = alltrue([
      for statement in jsondecode(aws_iam_role_policy.pod["autoscaler"].policy).Statement :
      statement.Condition.StringEquals["aws:ResourceTag/k8s.io/cluster-autoscaler/regrow"] == "owned" if contains(statement.Action, "autoscaling:SetDesiredCapacity")
    ])
    error_message = "The autoscaler changes this cluster's groups only."
  }

  assert {
    condition     = toset([for attachment in aws_iam_role_policy_attachment.node : attachment.policy_arn]) == toset(["arn:aws:iam::aws:policy/AmazonEKSWorkerNodePolicy", "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly"])
    error_message = "A node joins the cluster and pulls images, no more."
  }
}

run "steps_that_write_mlflow" {
  command = plan

  variables {
    steps_write_mlflow = true
  }

  assert {
    condition     = toset([for name, one in aws_iam_role_policy.pod : name if strcontains(one.policy, "/mlflow/")]) == toset(["mlflow", "step"])
    error_message = "steps_write_mlflow opens mlflow/ to steps, and to no one else."
  }
}

run "the_outputs_feed_the_stack" {
  command = plan

  variables {
    name             = "lab"
    namespace        = "llm"
    service_accounts = { step = "worker" }
  }

  assert {
    condition     = output.artifact_uri == "s3://lab-111122223333-eu-central-1/zenml" && output.registry_uri == "111122223333.dkr.ecr.eu-central-1.amazonaws.com"
    error_message = "Addresses of the artifact store and the registry."
  }

  assert {
    condition     = output.repositories["regrow-tune"] == "${output.image_registry}/regrow-tune" && output.image_registry == "111122223333.dkr.ecr.eu-central-1.amazonaws.com/lab"
    error_message = "Repositories are named after the stack, and as the images that are pushed."
  }

  assert {
    condition     = output.service_accounts["step"] == { name = "worker", annotations = { "eks.amazonaws.com/role-arn" = "arn:aws:iam::111122223333:role/mocked" } }
    error_message = "A service account needs its role's annotation."
  }

  assert {
    condition     = output.stack.orchestrator.kubernetes_namespace == "llm" && output.stack.orchestrator.step_pod_service_account_name == "worker" && output.stack.orchestrator.kubernetes_context == "lab"
    error_message = "The orchestrator's settings."
  }

  assert {
    condition = (
      output.stack.step_operators["gpu"].pod_settings.node_selectors == { "regrow/pool" = "gpu" } &&
      one(output.stack.step_operators["gpu"].pod_settings.tolerations) == { key = "nvidia.com/gpu", operator = "Exists", effect = "NoSchedule" }
    )
    error_message = "GPU pods choose the pool and tolerate its taint."
  }

  assert {
    condition     = output.gpu_pools["gpu"].node_selectors == { "regrow/pool" = "gpu" } && output.gpu_pools["gpu"].gpus_per_node == 1
    error_message = "What the pods of a pool need."
  }

  assert {
    condition     = output.kubeconfig_command == "aws eks update-kubeconfig --region eu-central-1 --name lab --alias lab" && output.cluster_context == "lab"
    error_message = "The context has the name that the command gives it."
  }
}

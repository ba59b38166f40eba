# The first apply, when nothing of AWS's answers is known yet: the plan must be possible without them.

mock_provider "aws" {
  source = "./tests/aws"
}

variables {
  region = "eu-central-1"
}

run "everything_is_made_in_one_apply" {
  command = apply

  assert {
    condition     = output.databases["zenml"].port == 3306 && output.databases["mlflow"].host == "mocked.eu-central-1.rds.amazonaws.com"
    error_message = "Servers must find their databases."
  }

  assert {
    condition     = length(aws_iam_role.pod) == 8 && length(aws_autoscaling_group_tag.gpu) == 6 && length(aws_eks_addon.volumes.addon_name) > 0
    error_message = "Roles, tags and add-ons that wait for the cluster must be made after it."
  }

  assert {
    condition     = length(regexall("(?i)password|secret_string", jsonencode([output.databases, output.secrets, output.stack, output.service_accounts]))) == 0
    error_message = "Outputs say where a password is, never the password."
  }
}

# Bucket, images, databases, secrets, key.

mock_provider "aws" {
  source          = "./tests/aws"
  override_during = plan
}

variables {
  region = "eu-central-1"
}

run "the_bucket_is_private_encrypted_and_versioned" {
  command = plan

  assert {
    condition = (
      aws_s3_bucket_public_access_block.artifacts.block_public_acls && aws_s3_bucket_public_access_block.artifacts.block_public_policy &&
      aws_s3_bucket_public_access_block.artifacts.ignore_public_acls && aws_s3_bucket_public_access_block.artifacts.restrict_public_buckets
    )
    error_message = "Nothing in the bucket may become public."
  }

  assert {
    condition     = one(aws_s3_bucket_ownership_controls.artifacts.rule).object_ownership == "BucketOwnerEnforced"
    error_message = "ACLs must be off."
  }

  assert {
    condition     = one(aws_s3_bucket_versioning.artifacts.versioning_configuration).status == "Enabled"
    error_message = "A deleted model must be recoverable."
  }

  assert {
    condition     = one(one(aws_s3_bucket_server_side_encryption_configuration.artifacts.rule).apply_server_side_encryption_by_default) == { sse_algorithm = "aws:kms", kms_master_key_id = "arn:aws:kms:eu-central-1:111122223333:key/0a0a" }
    error_message = "Objects must be encrypted with the stack's key."
  }

  assert {
    condition = alltrue([
      for statement in jsondecode(aws_s3_bucket_policy.artifacts.policy).Statement : statement.Effect == "Deny" && statement.Principal == "*"
      ]) && anytrue([
      for statement in jsondecode(aws_s3_bucket_policy.artifacts.policy).Statement : try(statement.Condition.Bool["aws:SecureTransport"], "") == "false"
    ])
    error_message = "The bucket's policy gives nothing and refuses requests without TLS."
  }

  assert {
    condition     = aws_s3_bucket.artifacts.bucket == "regrow-111122223333-eu-central-1" && aws_s3_bucket.artifacts.force_destroy == false
    error_message = "A bucket with models in it must not be destroyed by accident."
  }
}

run "only_scratch_expires" {
  command = plan

  variables {
    scratch_days     = 3
    old_version_days = 14
  }

  assert {
    condition     = one([for rule in aws_s3_bucket_lifecycle_configuration.artifacts.rule : one(rule.expiration).days if rule.id == "scratch"]) == 3
    error_message = "Scratch goes after scratch_days."
  }

  assert {
    condition = [
      for rule in aws_s3_bucket_lifecycle_configuration.artifacts.rule : one(rule.expiration).expired_object_delete_marker if rule.id != "scratch"
    ] == [true]
    error_message = "Outside scratch/ nothing but markers of deleted objects may go by itself."
  }

  assert {
    condition     = one([for rule in aws_s3_bucket_lifecycle_configuration.artifacts.rule : one(rule.filter).prefix if rule.id == "scratch"]) == "scratch/"
    error_message = "The scratch rule must be for scratch/ only."
  }

  assert {
    condition     = one([for rule in aws_s3_bucket_lifecycle_configuration.artifacts.rule : one(rule.noncurrent_version_expiration).noncurrent_days if rule.id == "old-versions"]) == 14
    error_message = "Old versions go after old_version_days."
  }

  assert {
    condition     = one([for rule in aws_s3_bucket_lifecycle_configuration.artifacts.rule : one(rule.abort_incomplete_multipart_upload).days_after_initiation if rule.id == "old-versions"]) == 7
    error_message = "Parts of killed uploads must not be billed for ever."
  }
}

run "images_are_scanned_and_their_tags_stay" {
  command = plan

  assert {
    condition = { for image, repository in aws_ecr_repository.image : repository.name => repository.image_tag_mutability } == {
      "regrow/regrow-base"     = "IMMUTABLE", "regrow/regrow-tune" = "IMMUTABLE", "regrow/regrow-generate" = "IMMUTABLE"
      "regrow/regrow-evaluate" = "IMMUTABLE", "regrow/zenml" = "MUTABLE"
    }
    error_message = "Tags must be immutable, but for the one repository whose tags ZenML moves."
  }

  assert {
    condition     = alltrue([for repository in aws_ecr_repository.image : repository.image_scanning_configuration[0].scan_on_push && repository.encryption_configuration[0].encryption_type == "KMS"])
    error_message = "Images must be scanned and encrypted."
  }
}

run "databases_are_private_and_passwords_stay_with_rds" {
  command = plan

  assert {
    condition = alltrue([
      for database in aws_db_instance.server :
      database.manage_master_user_password == true && database.password == null && database.publicly_accessible == false && database.storage_encrypted &&
      database.deletion_protection && !database.skip_final_snapshot && database.backup_retention_period == 7
    ])
    error_message = "Databases must be private, encrypted, protected and backed up, with RDS's own password."
  }

  assert {
    condition     = { for name, database in aws_db_instance.server : name => database.engine } == { mlflow = "postgres", zenml = "mariadb" }
    error_message = "MLflow is on PostgreSQL, ZenML on MariaDB."
  }

  assert {
    condition = {
      for name, rule in aws_vpc_security_group_ingress_rule.database : name => jsonencode([rule.from_port, rule.to_port, rule.referenced_security_group_id])
    } == { mlflow = jsonencode([5432, 5432, "sg-0c"]), zenml = jsonencode([3306, 3306, "sg-0c"]) }
    error_message = "Only the cluster may reach a database, on its port."
  }

  assert {
    condition     = alltrue([for rule in aws_vpc_security_group_ingress_rule.database : rule.cidr_ipv4 == null && rule.cidr_ipv6 == null])
    error_message = "No range of addresses may reach a database."
  }

  assert {
    condition     = { for name, group in aws_db_parameter_group.server : name => [for parameter in group.parameter : "${parameter.name}=${parameter.value}"] } == { mlflow = ["rds.force_ssl=1"], zenml = ["require_secure_transport=1"] }
    error_message = "Databases must refuse connections without TLS."
  }

  assert {
    condition     = alltrue([for rotation in aws_secretsmanager_secret_rotation.database : one(rotation.rotation_rules).automatically_after_days == 90])
    error_message = "Passwords must not change every week under running servers."
  }
}

run "databases_in_the_cluster" {
  command = plan

  variables {
    databases = {}
  }

  assert {
    condition     = length(aws_db_instance.server) + length(aws_security_group.database) + length(aws_db_subnet_group.servers) == 0 && output.databases == {}
    error_message = "No database, nothing of one."
  }

  assert {
    condition     = !strcontains(aws_iam_role_policy.pod["mlflow"].policy, "secretsmanager")
    error_message = "Without a database MLflow has no secret to read."
  }
}

run "the_key_turns_and_secrets_are_empty_places" {
  command = plan

  assert {
    condition     = aws_kms_key.main.enable_key_rotation
    error_message = "The key must rotate."
  }

  assert {
    condition     = toset([for secret in aws_secretsmanager_secret.named : secret.name]) == toset(["regrow/hub-token", "regrow/signing-key", "regrow/zenml-jwt-key", "regrow/zenml-encryption-key"])
    error_message = "Secrets are named after the stack."
  }

  assert {
    condition     = alltrue([for secret in aws_secretsmanager_secret.named : secret.kms_key_id == "arn:aws:kms:eu-central-1:111122223333:key/0a0a"])
    error_message = "Secrets must be encrypted with the stack's key."
  }
}

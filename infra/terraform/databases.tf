# Databases of the servers on RDS. RDS makes each password and keeps it in Secrets Manager: Terraform, its state
# and its outputs never hold one.

locals {
  engines = {
    mlflow = {
      engine = "postgres"
      # The major versions that the servers are tested on.
      version = "15"
      family  = "postgres15"
      port    = 5432
      tls     = "rds.force_ssl"
      logs    = ["postgresql", "upgrade"]
    }
    zenml = {
      engine  = "mariadb"
      version = "10.11"
      family  = "mariadb10.11"
      port    = 3306
      tls     = "require_secure_transport"
      logs    = ["error"]
    }
  }
}

resource "aws_db_subnet_group" "servers" {
  count      = length(var.databases) > 0 ? 1 : 0
  name       = "${var.name}-servers"
  subnet_ids = values(local.private_subnets)
}

resource "aws_security_group" "database" {
  for_each    = var.databases
  name        = "${var.name}-${each.key}-database"
  description = "${each.key} database: only from the cluster's nodes and pods"
  vpc_id      = local.vpc_id
}

# No rule lets the database call out.
resource "aws_vpc_security_group_ingress_rule" "database" {
  for_each                     = var.databases
  security_group_id            = aws_security_group.database[each.key].id
  description                  = "From the cluster"
  referenced_security_group_id = aws_eks_cluster.main.vpc_config[0].cluster_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = local.engines[each.key].port
  to_port                      = local.engines[each.key].port
}

resource "aws_db_parameter_group" "server" {
  for_each    = var.databases
  name_prefix = "${var.name}-${each.key}-"
  family      = local.engines[each.key].family

  parameter {
    name  = local.engines[each.key].tls
    value = "1"
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_db_instance" "server" {
  for_each       = var.databases
  identifier     = "${var.name}-${each.key}"
  engine         = local.engines[each.key].engine
  engine_version = local.engines[each.key].version
  instance_class = each.value.instance_class
  db_name        = each.key
  username       = "regrow"
  port           = local.engines[each.key].port

  manage_master_user_password   = true
  master_user_secret_kms_key_id = aws_kms_key.main.key_id

  storage_type          = "gp3"
  allocated_storage     = each.value.storage_gib
  max_allocated_storage = each.value.max_storage_gib
  storage_encrypted     = true
  kms_key_id            = aws_kms_key.main.arn

  multi_az               = each.value.multi_az
  publicly_accessible    = false
  db_subnet_group_name   = aws_db_subnet_group.servers[0].name
  vpc_security_group_ids = [aws_security_group.database[each.key].id]
  parameter_group_name   = aws_db_parameter_group.server[each.key].name

  auto_minor_version_upgrade      = true
  backup_retention_period         = each.value.backup_days
  copy_tags_to_snapshot           = true
  enabled_cloudwatch_logs_exports = local.engines[each.key].logs

  deletion_protection       = each.value.protect
  skip_final_snapshot       = !each.value.protect
  final_snapshot_identifier = "${var.name}-${each.key}-final"
}

# RDS would change the password every seven days, and servers that read it at their start would stop with it.
resource "aws_secretsmanager_secret_rotation" "database" {
  for_each           = var.databases
  secret_id          = aws_db_instance.server[each.key].master_user_secret[0].secret_arn
  rotate_immediately = false

  rotation_rules {
    automatically_after_days = each.value.rotation_days
  }
}

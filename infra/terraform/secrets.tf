# Named, encrypted places for secrets, and no values: `aws secretsmanager put-secret-value` puts them in.

resource "aws_secretsmanager_secret" "named" {
  for_each                = var.secrets
  name                    = "${var.name}/${each.key}"
  description             = "Read by the identity ${each.value}"
  kms_key_id              = aws_kms_key.main.arn
  recovery_window_in_days = 7
}

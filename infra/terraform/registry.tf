# Image repositories.

locals {
  registry        = "${local.account}.dkr.ecr.${var.region}.${data.aws_partition.current.dns_suffix}"
  repository_arns = "arn:${local.partition}:ecr:${var.region}:${local.account}:repository/${var.name}/*"

  repositories = merge(
    { for image in var.images : image => "IMMUTABLE" },
    # ZenML tags an image with its pipeline's name and pushes that tag again at the next change; pods pull it by digest.
    { zenml = "MUTABLE" },
  )
}

resource "aws_ecr_repository" "image" {
  for_each             = local.repositories
  name                 = "${var.name}/${each.key}"
  image_tag_mutability = each.value

  image_scanning_configuration {
    scan_on_push = true
  }

  encryption_configuration {
    encryption_type = "KMS"
    kms_key         = aws_kms_key.main.arn
  }
}

resource "aws_ecr_lifecycle_policy" "image" {
  for_each   = aws_ecr_repository.image
  repository = each.value.name

  policy = jsonencode({
    rules = [{
      rulePriority = 1
      # A run that is tried again still pulls its image by digest, after the tag has moved on.
      description = "Images without a tag go after 90 days"
      selection   = { tagStatus = "untagged", countType = "sinceImagePushed", countUnit = "days", countNumber = 90 }
      action      = { type = "expire" }
    }]
  })
}

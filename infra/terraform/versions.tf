terraform {
  required_version = ">= 1.11" # the tests give mocked values during a plan

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100.0" # commit a lock file of your own beside your state
    }
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = merge({ project = "regrow", stack = var.name }, var.tags)
  }
}

data "aws_partition" "current" {}

data "aws_caller_identity" "current" {}

locals {
  partition = data.aws_partition.current.partition
  account   = data.aws_caller_identity.current.account_id
}

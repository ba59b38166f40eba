# What is made, and where.

variable "region" {
  description = "AWS region, such as eu-central-1. GPU instance types and quotas differ by region."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be the code of an AWS region, such as eu-central-1."
  }
}

variable "name" {
  description = "Name of the cluster and prefix of everything else."
  type        = string
  default     = "regrow"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,22}[a-z0-9]$", var.name))
    error_message = "name must have 3 to 24 lower-case letters, digits and hyphens, start with a letter and not end with a hyphen: names of buckets and roles are made from it."
  }
}

variable "tags" {
  description = "Tags on every resource, beside project and stack."
  type        = map(string)
  default     = {}
}

# Network.

variable "network" {
  description = "An existing network to use: the VPC's id and its private subnets by availability zone. They need a way out to the registries and hubs, and an S3 gateway endpoint to keep weights off the NAT gateway. Null makes a VPC."
  type = object({
    vpc_id          = string
    private_subnets = map(string)
  })
  default = null

  validation {
    condition = var.network == null ? true : (
      can(regex("^vpc-[0-9a-f]+$", var.network.vpc_id)) &&
      length(var.network.private_subnets) >= 2 &&
      alltrue([for subnet in values(var.network.private_subnets) : can(regex("^subnet-[0-9a-f]+$", subnet))])
    )
    error_message = "network must hold vpc_id = \"vpc-…\" and private_subnets = {zone = \"subnet-…\"} in at least two zones: EKS and RDS refuse fewer."
  }
}

variable "vpc_cidr" {
  description = "Address range of the VPC that is made. Every pod takes an address of a private subnet."
  type        = string
  default     = "10.60.0.0/16"

  validation {
    condition     = can(cidrhost(var.vpc_cidr, 0)) && can(regex("/(1[6-9]|20)$", var.vpc_cidr))
    error_message = "vpc_cidr must be an IPv4 range from /16 to /20, such as 10.60.0.0/16."
  }
}

variable "zones" {
  description = "Availability zones of the VPC that is made. Empty takes the region's first three. Name the zones that have your GPU type."
  type        = list(string)
  default     = []

  validation {
    condition = length(var.zones) == 0 || (
      length(distinct(var.zones)) == length(var.zones) && length(var.zones) >= 2 && length(var.zones) <= 6 &&
      alltrue([for zone in var.zones : startswith(zone, var.region)])
    )
    error_message = "zones must name two to six different zones of the region, such as eu-central-1a and eu-central-1b."
  }
}

variable "nat_per_zone" {
  description = "A NAT gateway in every zone. One for all zones costs less and is lost with its zone."
  type        = bool
  default     = false
}

# Cluster.

variable "kubernetes_version" {
  description = "Kubernetes version of the cluster. Null takes the newest that EKS offers on the day of creation."
  type        = string
  default     = "1.35"

  validation {
    condition     = var.kubernetes_version == null ? true : can(regex("^1\\.(2[89]|[3-9][0-9])$", var.kubernetes_version))
    error_message = "kubernetes_version must be like 1.35, and at least 1.28: Indexed Jobs and Pod Security need a recent one."
  }
}

variable "api_access_cidrs" {
  description = "Addresses that may reach the cluster's API from outside. Empty: only from inside the VPC."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for cidr in var.api_access_cidrs : can(cidrhost(cidr, 0)) && !endswith(cidr, "/0")])
    error_message = "api_access_cidrs must be IPv4 ranges of your own, such as 203.0.113.0/24; the whole internet (0.0.0.0/0) is refused."
  }
}

variable "cluster_admins" {
  description = "ARNs of IAM roles or users that administer the cluster. Empty: whoever runs terraform apply does."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.cluster_admins : can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:(role|user)/", arn))])
    error_message = "cluster_admins must be ARNs of IAM roles or users, such as arn:aws:iam::111122223333:role/platform."
  }
}

variable "cluster_users" {
  description = "ARNs of IAM roles or users that submit pipelines: they may edit the namespace and nothing else."
  type        = list(string)
  default     = []

  validation {
    condition = (
      alltrue([for arn in var.cluster_users : can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:(role|user)/", arn))]) &&
      length(setintersection(var.cluster_users, var.cluster_admins)) == 0
    )
    error_message = "cluster_users must be ARNs of IAM roles or users, none of which is also in cluster_admins."
  }
}

variable "namespace" {
  description = "Kubernetes namespace of the pipelines and servers."
  type        = string
  default     = "regrow"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.namespace)) && !startswith(var.namespace, "kube-")
    error_message = "namespace must be a Kubernetes name of lower-case letters, digits and hyphens, and not one of kube-*."
  }
}

variable "service_accounts" {
  description = "Names of the Kubernetes service accounts that get a role each."
  type = object({
    orchestrator = optional(string, "regrow-orchestrator")
    step         = optional(string, "regrow-step")
    builder      = optional(string, "regrow-builder")
    mlflow       = optional(string, "mlflow")
    zenml        = optional(string, "zenml")
  })
  default = {}

  validation {
    condition = alltrue([
      for account in values(var.service_accounts) : can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", account)) && account != "default"
    ]) && length(distinct(values(var.service_accounts))) == length(values(var.service_accounts))
    error_message = "service_accounts must be five different Kubernetes names, and not \"default\": every pod of the namespace would get the role."
  }
}

variable "permissions_boundary" {
  description = "ARN of a permissions boundary for every role that is made, where an organisation asks for one."
  type        = string
  default     = null
}

variable "log_retention_days" {
  description = "Days that the cluster's control-plane logs are kept in CloudWatch."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827], var.log_retention_days)
    error_message = "log_retention_days must be a number that CloudWatch knows: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096 or 1827."
  }
}

# Nodes.

variable "model_gib" {
  description = "Size of the largest checkpoint on disk, in GiB: 16 for 8B parameters in bf16, 140 for 70B. Disks are checked against it."
  type        = number
  default     = 16

  validation {
    condition     = var.model_gib > 0
    error_message = "model_gib must be above 0."
  }
}

variable "cpu_pool" {
  description = "Nodes without a GPU: servers, orchestrator pods, and steps that stream weights (prune, merge)."
  type = object({
    instance_types = optional(list(string), ["m7i.2xlarge"])
    min_nodes      = optional(number, 1)
    max_nodes      = optional(number, 4)
    disk_gib       = optional(number, 200)
  })
  default = {}

  validation {
    condition     = var.cpu_pool.min_nodes >= 1 && var.cpu_pool.max_nodes >= var.cpu_pool.min_nodes
    error_message = "cpu_pool needs min_nodes of 1 or more (the autoscaler and the servers run there) and max_nodes no smaller."
  }

  validation {
    condition     = floor(var.cpu_pool.disk_gib * 0.85) >= 3 * var.model_gib
    error_message = "cpu_pool.disk_gib is too small: pods get 85 % of it, which must hold three checkpoints of model_gib."
  }
}

variable "gpu_pools" {
  description = "GPU node pools by name. Each is tainted nvidia.com/gpu, labelled regrow/pool=NAME, and starts with no node. local_disk_gib puts pods on the instance's own NVMe disks, of which it is the size; zones restricts the pool to zones that have the type."
  type = map(object({
    instance_types          = list(string)
    gpus                    = number
    accelerator             = string
    min_nodes               = optional(number, 0)
    max_nodes               = optional(number, 2)
    disk_gib                = optional(number, 300)
    local_disk_gib          = optional(number, 0)
    spot                    = optional(bool, false)
    zones                   = optional(list(string), [])
    capacity_reservation_id = optional(string)
  }))
  default = {
    gpu = {
      instance_types = ["p5.4xlarge"] # one H100 of 80 GB
      gpus           = 1
      accelerator    = "nvidia-h100"
    }
  }

  validation {
    condition     = alltrue([for name in keys(var.gpu_pools) : can(regex("^[a-z][a-z0-9-]{0,14}[a-z0-9]$", name)) && name != "cpu"])
    error_message = "A name in gpu_pools must have 2 to 16 lower-case letters, digits and hyphens, and not be cpu."
  }

  validation {
    condition = alltrue(flatten([
      for pool in values(var.gpu_pools) : [
        length(pool.instance_types) > 0,
        [for type in pool.instance_types : can(regex("^[gp][0-9]", type)) && !can(regex("^(g5g|p6e)", type))],
      ]
    ]))
    error_message = "instance_types of a GPU pool must be x86-64 GPU instances (families g and p), such as g6e.2xlarge; Arm ones (g5g, p6e) do not run the images."
  }

  validation {
    condition = alltrue([
      for pool in values(var.gpu_pools) :
      pool.min_nodes >= 0 && pool.max_nodes >= 1 && pool.max_nodes >= pool.min_nodes && pool.gpus >= 1 && pool.gpus <= 16 && floor(pool.gpus) == pool.gpus
    ])
    error_message = "A GPU pool needs gpus (of one node) from 1 to 16, min_nodes of 0 or more, and max_nodes of at least 1 and no smaller than min_nodes."
  }

  validation {
    condition = alltrue([
      for pool in values(var.gpu_pools) :
      pool.disk_gib >= 100 && floor((pool.local_disk_gib > 0 ? pool.local_disk_gib : pool.disk_gib) * 0.85) >= 3 * var.model_gib
    ])
    error_message = "The disk of a GPU pool is too small: disk_gib must be 100 or more (system and CUDA images), and pods get 85 % of it, or of local_disk_gib where that is set, which must hold three checkpoints of model_gib."
  }

  validation {
    condition     = alltrue([for pool in values(var.gpu_pools) : !(pool.spot && pool.capacity_reservation_id != null)])
    error_message = "A GPU pool is either spot or in a capacity reservation, not both."
  }

  validation {
    condition     = alltrue([for pool in values(var.gpu_pools) : can(regex("^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$", pool.accelerator))])
    error_message = "accelerator must be a Kubernetes label value, such as nvidia-h100."
  }
}

# Storage.

variable "bucket_name" {
  description = "Name of the bucket. Null makes one of name, account and region, which no one else has."
  type        = string
  default     = null

  validation {
    condition     = var.bucket_name == null ? true : can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket_name))
    error_message = "bucket_name must have 3 to 63 lower-case letters, digits and hyphens (a dot breaks TLS)."
  }
}

variable "keep_bucket" {
  description = "Refuse to destroy a bucket that still holds objects."
  type        = bool
  default     = true
}

variable "scratch_days" {
  description = "Days after which objects under scratch/ are deleted."
  type        = number
  default     = 7

  validation {
    condition     = var.scratch_days >= 1 && floor(var.scratch_days) == var.scratch_days
    error_message = "scratch_days must be a whole number of days, 1 or more."
  }
}

variable "old_version_days" {
  description = "Days after which replaced or deleted versions of an object are really deleted. Until then a deleted model can be brought back."
  type        = number
  default     = 30

  validation {
    condition     = var.old_version_days >= 1 && floor(var.old_version_days) == var.old_version_days
    error_message = "old_version_days must be a whole number of days, 1 or more."
  }
}

variable "steps_write_mlflow" {
  description = "Step pods write MLflow's artifacts to the bucket themselves. False: they go through the MLflow server (mlflow server --serve-artifacts), which alone may write mlflow/."
  type        = bool
  default     = false
}

# Images.

variable "images" {
  # Named as `python -m infra.docker build --push` names what it pushes below the output image_registry.
  description = "Image repositories whose tags can not be moved."
  type        = set(string)
  default     = ["regrow-base", "regrow-tune", "regrow-generate", "regrow-evaluate"]

  validation {
    condition     = alltrue([for image in var.images : can(regex("^[a-z0-9]+([._-][a-z0-9]+)*$", image)) && image != "zenml"])
    error_message = "images must be names of lower-case letters, digits, dots, hyphens and underscores; zenml is made in any case."
  }
}

# Databases and secrets.

variable "databases" {
  description = "Databases on RDS for the servers: mlflow (PostgreSQL) and zenml (MariaDB). Leave one out to run it in the cluster."
  type = map(object({
    instance_class  = optional(string, "db.t4g.medium")
    storage_gib     = optional(number, 20)
    max_storage_gib = optional(number, 200)
    multi_az        = optional(bool, false)
    backup_days     = optional(number, 7)
    protect         = optional(bool, true)
    rotation_days   = optional(number, 90)
  }))
  default = {
    mlflow = {}
    zenml  = {}
  }

  validation {
    condition     = length(setsubtract(keys(var.databases), ["mlflow", "zenml"])) == 0
    error_message = "databases knows the names mlflow and zenml."
  }

  validation {
    condition = alltrue([
      for database in values(var.databases) :
      database.storage_gib >= 20 && database.max_storage_gib > database.storage_gib && database.backup_days >= 1 && database.backup_days <= 35
    ])
    error_message = "A database needs storage_gib of 20 or more, a larger max_storage_gib, and backup_days from 1 to 35."
  }

  validation {
    condition     = alltrue([for database in values(var.databases) : database.rotation_days >= 1 && database.rotation_days <= 1000])
    error_message = "rotation_days of a database must be from 1 to 1000."
  }
}

variable "secrets" {
  description = "Secrets that are made empty in AWS Secrets Manager, and the identity that may read each: orchestrator, step, mlflow or zenml. Values are put in by hand and never pass through Terraform."
  type        = map(string)
  default = {
    hub-token            = "step"
    signing-key          = "step"
    zenml-jwt-key        = "zenml"
    zenml-encryption-key = "zenml"
  }

  validation {
    condition = alltrue([
      for name, reader in var.secrets :
      can(regex("^[a-z][a-z0-9-]*[a-z0-9]$", name)) && contains(["orchestrator", "step", "mlflow", "zenml"], reader)
    ])
    error_message = "secrets must give lower-case names an identity that may read them: orchestrator, step, mlflow or zenml."
  }
}

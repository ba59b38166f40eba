# Who may do what in AWS. Every kind of pod has a role that only its service account in its namespace can take
# (IAM roles for service accounts); no key is made anywhere.

# The cluster and its nodes.

resource "aws_iam_role" "cluster" {
  name                 = "${var.name}-cluster"
  permissions_boundary = var.permissions_boundary

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "eks.amazonaws.com" }
      Action    = ["sts:AssumeRole"]
    }]
  })
}

resource "aws_iam_role_policy_attachment" "cluster" {
  role       = aws_iam_role.cluster.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/AmazonEKSClusterPolicy"
}

resource "aws_iam_role" "node" {
  name                 = "${var.name}-node"
  permissions_boundary = var.permissions_boundary

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ec2.amazonaws.com" }
      Action    = ["sts:AssumeRole"]
    }]
  })
}

# Kubelets pull images, those of EKS's add-ons among them; the network add-on has a role of its own.
resource "aws_iam_role_policy_attachment" "node" {
  for_each   = toset(["AmazonEKSWorkerNodePolicy", "AmazonEC2ContainerRegistryPullOnly"])
  role       = aws_iam_role.node.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/${each.key}"
}

# Pods.

resource "aws_iam_openid_connect_provider" "cluster" {
  url            = aws_eks_cluster.main.identity[0].oidc[0].issuer
  client_id_list = ["sts.amazonaws.com"]
}

locals {
  issuer = trimprefix(aws_eks_cluster.main.identity[0].oidc[0].issuer, "https://")

  # Listing is limited to the prefixes, but not refused where a request names none: S3 answers for a missing object
  # "not found" only to those who may list, and may ask that without a prefix; s3fs takes the "forbidden" that
  # others get for an error. So names in other prefixes can be listed; their objects can not be read.
  # s3fs asks for the location when it wants to know whether the bucket exists.
  bucket_list = {
    for identity, prefixes in local.bucket_prefixes : identity => [
      {
        Sid      = "Bucket"
        Effect   = "Allow"
        Action   = ["s3:GetBucketLocation", "s3:GetBucketVersioning"]
        Resource = [local.bucket_arn]
      },
      {
        Sid       = "List"
        Effect    = "Allow"
        Action    = ["s3:ListBucket"]
        Resource  = [local.bucket_arn]
        Condition = { StringLikeIfExists = { "s3:prefix" = flatten([for prefix in prefixes : [prefix, "${prefix}/*"]]) } }
      },
      {
        Sid       = "ListVersions"
        Effect    = "Allow"
        Action    = ["s3:ListBucketVersions"]
        Resource  = [local.bucket_arn]
        Condition = { StringLike = { "s3:prefix" = [for prefix in prefixes : "${prefix}/*"] } }
      },
    ]
  }
  bucket_read = {
    for identity, prefixes in local.bucket_prefixes : identity => [
      {
        Sid      = "Read"
        Effect   = "Allow"
        Action   = ["s3:GetObject"]
        Resource = [for prefix in prefixes : "${local.bucket_arn}/${prefix}/*"]
      },
      {
        Sid       = "Decrypt"
        Effect    = "Allow"
        Action    = ["kms:Decrypt"]
        Resource  = [aws_kms_key.main.arn]
        Condition = { StringEquals = { "kms:ViaService" = "s3.${var.region}.amazonaws.com" } }
      },
    ]
  }
  # Deleting leaves a version that can be brought back. Really deleting one is allowed for log files alone:
  # ZenML writes each again and again, and takes the old versions away.
  bucket_write = {
    for identity, prefixes in local.bucket_prefixes : identity => concat(
      [
        {
          Sid      = "Write"
          Effect   = "Allow"
          Action   = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
          Resource = [for prefix in prefixes : "${local.bucket_arn}/${prefix}/*"]
        },
        {
          Sid       = "Encrypt"
          Effect    = "Allow"
          Action    = ["kms:GenerateDataKey"]
          Resource  = [aws_kms_key.main.arn]
          Condition = { StringEquals = { "kms:ViaService" = "s3.${var.region}.amazonaws.com" } }
        },
      ],
      [
        for prefix in prefixes : {
          Sid      = "OldLogs"
          Effect   = "Allow"
          Action   = ["s3:DeleteObjectVersion"]
          Resource = ["${local.bucket_arn}/${prefix}/logs/*"]
        } if prefix == "zenml"
      ],
    )
  }
  bucket_prefixes = {
    orchestrator = ["zenml"]
    step         = concat(["zenml", "scratch"], var.steps_write_mlflow ? ["mlflow"] : [])
    mlflow       = ["mlflow"]
    zenml        = ["zenml"]
    client       = ["zenml"]
  }

  registry_login = [{
    Sid      = "RegistryLogin"
    Effect   = "Allow"
    Action   = ["ecr:GetAuthorizationToken"]
    Resource = ["*"] # the action knows no resource
  }]
  registry_pull = [{
    Sid      = "Pull"
    Effect   = "Allow"
    Action   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:DescribeImages", "ecr:GetDownloadUrlForLayer"]
    Resource = [local.repository_arns]
  }]
  registry_push = [{
    Sid      = "Push"
    Effect   = "Allow"
    Action   = ["ecr:CompleteLayerUpload", "ecr:DescribeRepositories", "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart"]
    Resource = [local.repository_arns]
  }]

  # The secrets of each identity: those of `secrets`, and its database's password.
  secret_arns = {
    for identity in ["orchestrator", "step", "mlflow", "zenml"] : identity => concat(
      [for name, reader in var.secrets : aws_secretsmanager_secret.named[name].arn if reader == identity],
      [for name, database in aws_db_instance.server : database.master_user_secret[0].secret_arn if name == identity],
    )
  }
  secret_count = {
    for identity in ["orchestrator", "step", "mlflow", "zenml"] : identity => (
      length([for reader in values(var.secrets) : reader if reader == identity]) + (contains(keys(var.databases), identity) ? 1 : 0)
    )
  }
  secret_read = {
    for identity, arns in local.secret_arns : identity => [
      for statement in [
        {
          Sid      = "Secrets"
          Effect   = "Allow"
          Action   = ["secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue"]
          Resource = arns
        },
        {
          Sid       = "DecryptSecrets"
          Effect    = "Allow"
          Action    = ["kms:Decrypt"]
          Resource  = [aws_kms_key.main.arn]
          Condition = { StringEquals = { "kms:ViaService" = "secretsmanager.${var.region}.amazonaws.com" } }
        },
      ] : statement if local.secret_count[identity] > 0
    ]
  }

  autoscaling = [
    {
      Sid    = "Look"
      Effect = "Allow"
      Action = [
        "autoscaling:DescribeAutoScalingGroups", "autoscaling:DescribeAutoScalingInstances",
        "autoscaling:DescribeLaunchConfigurations", "autoscaling:DescribeScalingActivities",
        "ec2:DescribeImages", "ec2:DescribeInstanceTypes", "ec2:DescribeLaunchTemplateVersions",
        "ec2:GetInstanceTypesFromInstanceRequirements",
      ]
      Resource = ["*"] # these actions know no resource
    },
    {
      Sid      = "Groups"
      Effect   = "Allow"
      Action   = ["eks:DescribeNodegroup"]
      Resource = ["arn:${local.partition}:eks:${var.region}:${local.account}:nodegroup/${var.name}/*"]
    },
    {
      Sid       = "Scale"
      Effect    = "Allow"
      Action    = ["autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup"]
      Resource  = ["arn:${local.partition}:autoscaling:${var.region}:${local.account}:autoScalingGroup:*"]
      Condition = { StringEquals = { "aws:ResourceTag/k8s.io/cluster-autoscaler/${var.name}" = "owned" } } # EKS's tag
    },
  ]

  # Service account and policy of each kind of pod; `managed` names a policy of AWS's instead.
  pods = {
    orchestrator = {
      account = "${var.namespace}:${var.service_accounts.orchestrator}"
      managed = null
      policy = concat(
        local.bucket_list["orchestrator"], local.bucket_read["orchestrator"], local.bucket_write["orchestrator"],
        local.registry_login, local.registry_pull, local.secret_read["orchestrator"],
      )
    }
    step = {
      account = "${var.namespace}:${var.service_accounts.step}"
      managed = null
      policy = concat(
        local.bucket_list["step"], local.bucket_read["step"], local.bucket_write["step"],
        local.registry_login, local.registry_pull, local.secret_read["step"],
      )
    }
    builder = {
      account = "${var.namespace}:${var.service_accounts.builder}"
      managed = null
      policy  = concat(local.registry_login, local.registry_pull, local.registry_push)
    }
    mlflow = {
      account = "${var.namespace}:${var.service_accounts.mlflow}"
      managed = null
      policy = concat(
        local.bucket_list["mlflow"], local.bucket_read["mlflow"], local.bucket_write["mlflow"], local.secret_read["mlflow"],
      )
    }
    # The server shows logs and pictures of artifacts; it writes none.
    zenml = {
      account = "${var.namespace}:${var.service_accounts.zenml}"
      managed = null
      policy  = concat(local.bucket_list["zenml"], local.bucket_read["zenml"], local.secret_read["zenml"])
    }
    autoscaler = {
      account = "kube-system:cluster-autoscaler"
      managed = null
      policy  = local.autoscaling
    }
    network = {
      account = "kube-system:aws-node"
      managed = "AmazonEKS_CNI_Policy"
      policy  = []
    }
    volumes = {
      account = "kube-system:ebs-csi-controller-sa"
      managed = "service-role/AmazonEBSCSIDriverPolicy"
      policy  = []
    }
  }
  pod_accounts = { for name, pod in local.pods : name => pod.account }
  pod_managed  = { for name, pod in local.pods : name => pod.managed if pod.managed != null }
  pod_policies = {
    for name, pod in local.pods : name => jsonencode({ Version = "2012-10-17", Statement = pod.policy }) if pod.managed == null
  }
}

resource "aws_iam_role" "pod" {
  for_each             = local.pod_accounts
  name                 = "${var.name}-pod-${each.key}"
  permissions_boundary = var.permissions_boundary

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Federated = aws_iam_openid_connect_provider.cluster.arn }
      Action    = ["sts:AssumeRoleWithWebIdentity"]
      Condition = {
        StringEquals = {
          "${local.issuer}:aud" = "sts.amazonaws.com"
          "${local.issuer}:sub" = "system:serviceaccount:${each.value}"
        }
      }
    }]
  })
}

resource "aws_iam_role_policy" "pod" {
  for_each = local.pod_policies
  name     = "regrow"
  role     = aws_iam_role.pod[each.key].id
  policy   = each.value
}

resource "aws_iam_role_policy_attachment" "pod" {
  for_each   = local.pod_managed
  role       = aws_iam_role.pod[each.key].name
  policy_arn = "arn:${local.partition}:iam::aws:policy/${each.value}"
}

# For the people and CI jobs that submit pipelines; attached to their roles by hand.
resource "aws_iam_policy" "client" {
  name        = "${var.name}-client"
  description = "Submit pipelines: kubeconfig, artifacts, images"

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [{
        Sid      = "Kubeconfig"
        Effect   = "Allow"
        Action   = ["eks:DescribeCluster"]
        Resource = ["arn:${local.partition}:eks:${var.region}:${local.account}:cluster/${var.name}"]
      }],
      local.bucket_list["client"], local.bucket_read["client"], local.bucket_write["client"],
      local.registry_login, local.registry_pull, local.registry_push,
    )
  })
}

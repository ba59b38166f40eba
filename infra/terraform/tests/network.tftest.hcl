# The network that is made, the one that is given, and who reaches the cluster.

mock_provider "aws" {
  source          = "./tests/aws"
  override_during = plan
}

variables {
  region = "eu-central-1"
}

run "a_network_is_made" {
  command = plan

  assert {
    condition     = { for zone, subnet in aws_subnet.private : zone => subnet.cidr_block } == { "eu-central-1a" = "10.60.0.0/20", "eu-central-1b" = "10.60.16.0/20", "eu-central-1c" = "10.60.32.0/20" }
    error_message = "The first three zones get a private subnet each."
  }

  assert {
    condition     = { for zone, subnet in aws_subnet.public : zone => subnet.cidr_block } == { "eu-central-1a" = "10.60.240.0/24", "eu-central-1b" = "10.60.241.0/24", "eu-central-1c" = "10.60.242.0/24" }
    error_message = "Public subnets must not overlap the private ones."
  }

  assert {
    condition     = length(aws_nat_gateway.main) == 1 && length(aws_route.out) == 3
    error_message = "One NAT gateway serves all zones."
  }

  assert {
    condition     = aws_vpc_endpoint.s3[0].service_name == "com.amazonaws.eu-central-1.s3" && aws_vpc_endpoint.s3[0].vpc_endpoint_type == "Gateway"
    error_message = "Weights must not go through the NAT gateway."
  }
}

run "a_nat_gateway_in_every_zone" {
  command = plan

  variables {
    zones        = ["eu-central-1b", "eu-central-1a"]
    nat_per_zone = true
  }

  assert {
    condition     = toset(keys(aws_nat_gateway.main)) == toset(["eu-central-1a", "eu-central-1b"])
    error_message = "Every zone needs its own NAT gateway."
  }
}

run "a_given_network_is_used_and_not_touched" {
  command = plan

  variables {
    network = {
      vpc_id          = "vpc-0f0f"
      private_subnets = { "eu-central-1a" = "subnet-0aa", "eu-central-1b" = "subnet-0bb" }
    }
  }

  assert {
    condition     = length(aws_vpc.main) + length(aws_subnet.private) + length(aws_subnet.public) + length(aws_nat_gateway.main) + length(aws_vpc_endpoint.s3) == 0
    error_message = "Nothing may be added to a network that is given."
  }

  assert {
    condition     = aws_eks_cluster.main.vpc_config[0].subnet_ids == toset(["subnet-0aa", "subnet-0bb"]) && aws_db_subnet_group.servers[0].subnet_ids == toset(["subnet-0aa", "subnet-0bb"])
    error_message = "Cluster and databases must lie in the subnets that are given."
  }

  assert {
    condition     = alltrue([for group in aws_security_group.database : group.vpc_id == "vpc-0f0f"])
    error_message = "Security groups must lie in the VPC that is given."
  }
}

run "the_api_is_private_unless_addresses_are_named" {
  command = plan

  assert {
    condition     = aws_eks_cluster.main.vpc_config[0].endpoint_public_access == false && aws_eks_cluster.main.vpc_config[0].endpoint_private_access == true
    error_message = "No one outside the VPC may reach the API by default."
  }

  assert {
    condition     = aws_eks_cluster.main.encryption_config[0].resources == toset(["secrets"]) && contains(aws_eks_cluster.main.enabled_cluster_log_types, "audit")
    error_message = "Kubernetes' secrets must be encrypted and its calls audited."
  }

  assert {
    condition     = jsondecode(aws_eks_addon.network.configuration_values).enableNetworkPolicy == "true"
    error_message = "Without this setting network policies do nothing."
  }

  assert {
    condition     = aws_eks_cluster.main.access_config[0].authentication_mode == "API" && aws_eks_cluster.main.access_config[0].bootstrap_cluster_creator_admin_permissions == true
    error_message = "With no admin named, the creator must be one."
  }
}

run "admins_and_users" {
  command = plan

  variables {
    api_access_cidrs = ["203.0.113.0/24"]
    cluster_admins   = ["arn:aws:iam::111122223333:role/platform"]
    cluster_users    = ["arn:aws:iam::111122223333:role/research"]
    namespace        = "llm"
  }

  assert {
    condition     = aws_eks_cluster.main.vpc_config[0].endpoint_public_access && aws_eks_cluster.main.vpc_config[0].public_access_cidrs == toset(["203.0.113.0/24"])
    error_message = "The API must be open to the named addresses only."
  }

  assert {
    condition     = aws_eks_cluster.main.access_config[0].bootstrap_cluster_creator_admin_permissions == false
    error_message = "With admins named, the creator is not one besides."
  }

  assert {
    condition = (
      endswith(aws_eks_access_policy_association.person["arn:aws:iam::111122223333:role/research"].policy_arn, "/AmazonEKSEditPolicy") &&
      one(aws_eks_access_policy_association.person["arn:aws:iam::111122223333:role/research"].access_scope).namespaces == toset(["llm"])
    )
    error_message = "A user may edit the namespace and nothing else."
  }

  assert {
    condition     = one(aws_eks_access_policy_association.person["arn:aws:iam::111122223333:role/platform"].access_scope).type == "cluster"
    error_message = "An admin administers the cluster."
  }
}

# A VPC with private subnets for nodes and databases, and public ones for NAT gateways and load balancers;
# or nothing, where `network` names an existing one.

data "aws_availability_zones" "available" {
  count = local.make_network && length(var.zones) == 0 ? 1 : 0
  state = "available"

  filter {
    name   = "opt-in-status" # leaves local and wavelength zones out
    values = ["opt-in-not-required"]
  }
}

locals {
  make_network = var.network == null

  found_zones = flatten(data.aws_availability_zones.available[*].names)
  zones = (
    !local.make_network ? sort(keys(var.network.private_subnets)) :
    length(var.zones) > 0 ? sort(var.zones) :
    slice(sort(local.found_zones), 0, min(3, length(local.found_zones)))
  )
  made_zones = local.make_network ? local.zones : []
  nat_zones  = var.nat_per_zone ? local.made_zones : slice(local.made_zones, 0, min(1, length(local.made_zones)))

  vpc_id          = local.make_network ? aws_vpc.main[0].id : var.network.vpc_id
  private_subnets = local.make_network ? { for zone, subnet in aws_subnet.private : zone => subnet.id } : var.network.private_subnets
}

resource "aws_vpc" "main" {
  count                = local.make_network ? 1 : 0
  cidr_block           = var.vpc_cidr
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = { Name = var.name }
}

# The group that AWS makes with every VPC lets its members talk to each other: nothing may use it.
resource "aws_default_security_group" "closed" {
  count  = local.make_network ? 1 : 0
  vpc_id = aws_vpc.main[0].id
}

resource "aws_subnet" "private" {
  for_each          = toset(local.made_zones)
  vpc_id            = aws_vpc.main[0].id
  availability_zone = each.key
  cidr_block        = cidrsubnet(var.vpc_cidr, 4, index(local.made_zones, each.key))
  tags = {
    Name                              = "${var.name}-private-${each.key}"
    "kubernetes.io/role/internal-elb" = "1"
  }
}

resource "aws_subnet" "public" {
  for_each          = toset(local.made_zones)
  vpc_id            = aws_vpc.main[0].id
  availability_zone = each.key
  # The last sixteenth of the range, which no private subnet takes.
  cidr_block = cidrsubnet(var.vpc_cidr, 8, 240 + index(local.made_zones, each.key))
  tags = {
    Name                     = "${var.name}-public-${each.key}"
    "kubernetes.io/role/elb" = "1"
  }
}

resource "aws_internet_gateway" "main" {
  count  = local.make_network ? 1 : 0
  vpc_id = aws_vpc.main[0].id
  tags   = { Name = var.name }
}

resource "aws_route_table" "public" {
  count  = local.make_network ? 1 : 0
  vpc_id = aws_vpc.main[0].id
  tags   = { Name = "${var.name}-public" }
}

resource "aws_route" "internet" {
  count                  = local.make_network ? 1 : 0
  route_table_id         = aws_route_table.public[0].id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.main[0].id
}

resource "aws_route_table_association" "public" {
  for_each       = aws_subnet.public
  subnet_id      = each.value.id
  route_table_id = aws_route_table.public[0].id
}

resource "aws_eip" "nat" {
  for_each = toset(local.nat_zones)
  domain   = "vpc"
  tags     = { Name = "${var.name}-nat-${each.key}" }
}

resource "aws_nat_gateway" "main" {
  for_each      = toset(local.nat_zones)
  allocation_id = aws_eip.nat[each.key].id
  subnet_id     = aws_subnet.public[each.key].id
  tags          = { Name = "${var.name}-${each.key}" }

  depends_on = [aws_internet_gateway.main]
}

resource "aws_route_table" "private" {
  for_each = toset(local.made_zones)
  vpc_id   = aws_vpc.main[0].id
  tags     = { Name = "${var.name}-private-${each.key}" }
}

resource "aws_route" "out" {
  for_each               = toset(local.made_zones)
  route_table_id         = aws_route_table.private[each.key].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.main[var.nat_per_zone ? each.key : local.nat_zones[0]].id
}

resource "aws_route_table_association" "private" {
  for_each       = toset(local.made_zones)
  subnet_id      = aws_subnet.private[each.key].id
  route_table_id = aws_route_table.private[each.key].id
}

# Weights and image layers come from S3: past the NAT gateway, which bills every byte.
resource "aws_vpc_endpoint" "s3" {
  count             = local.make_network ? 1 : 0
  vpc_id            = aws_vpc.main[0].id
  service_name      = "com.amazonaws.${var.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [for zone in local.made_zones : aws_route_table.private[zone].id]
  tags              = { Name = "${var.name}-s3" }
}

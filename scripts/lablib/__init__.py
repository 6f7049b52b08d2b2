"""What scripts/lab and scripts/e2e share: network namespaces, servers, the balancer, checks."""

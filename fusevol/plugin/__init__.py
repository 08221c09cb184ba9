"""What container engines talk to: Docker's volume plugin protocol, OCI hooks, CDI."""

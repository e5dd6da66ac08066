"""What is reachable: REST commands, GraphQL reads, subscriptions and the dashboard."""

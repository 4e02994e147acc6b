"""Fine-tuning of a policy in a simulator that a frozen delta-action model has aligned."""

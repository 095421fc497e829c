"""Fine-tuning runs: the ledger, the workers that carry runs out, and what they leave on disk."""

"""The only room with torch: models, adapters, GRPO, tasks and evaluation."""

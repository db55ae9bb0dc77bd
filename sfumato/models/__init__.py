"""Model adapters: the only place that knows diffusers and transformers."""

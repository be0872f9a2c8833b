"""Network definitions that no dependency offers. Each takes the host's `operations` instead of torch.nn's layers."""

"""Network definitions that no dependency offers. Each takes ComfyUI's `operations` in place of torch.nn's layers."""

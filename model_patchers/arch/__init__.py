"""Network definitions that no dependency offers."""

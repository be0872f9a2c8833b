"""A ComfyUI to run the pack in: `python3 host demo | test | serve | bench | models | setup`."""

from . import attention_couple, caption, ella, ella_t5, regional_prompt

NODES = [*ella.NODES, *ella_t5.NODES, *caption.NODES, *regional_prompt.NODES, *attention_couple.NODES]

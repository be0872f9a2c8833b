from . import attention_couple, caption, ella, ella_t5, regional_prompt, wildcards

NODES = [
    *wildcards.NODES,
    *regional_prompt.NODES,
    *attention_couple.NODES,
    *ella.NODES,
    *ella_t5.NODES,
    *caption.NODES,
]

from . import attention_couple, caption, ella, ella_t5

NODES = [*ella.NODES, *ella_t5.NODES, *caption.NODES, *attention_couple.NODES]

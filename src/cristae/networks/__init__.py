"""Networks: what turns an image into logits, and the file that carries one."""

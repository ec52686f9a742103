"""Studies and pictures made with the starter; nothing in src imports them."""

"""Networks: each forward pass returns named intermediates, and each network normalises its own input."""

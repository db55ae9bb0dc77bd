"""The public verbs: what surrounds a method, once for all of them."""

"""key=value words and YAML files -> one frozen, checked Config."""

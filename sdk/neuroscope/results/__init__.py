"""What analyses found, as values: arrays with named axes, labels, graphs, and JSON files of them."""

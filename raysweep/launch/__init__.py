"""Starting the training function: in this process, on Ray workers. The only room that imports ray."""

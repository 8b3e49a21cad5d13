"""What the numbers mean: figures and tables read from the store. No torch, no ray."""

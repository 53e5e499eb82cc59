"""The stages of a job, one module each; `order` lists them."""

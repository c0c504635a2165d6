"""What is noticed about running loops: views of them, the watcher that looks, and what it concludes."""

"""What a party shows of a job."""

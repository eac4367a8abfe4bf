"""What single requests need besides their protocol: records, models, spares, retries."""

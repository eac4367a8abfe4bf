"""Groups, homomorphic encryption and shares on arrays."""

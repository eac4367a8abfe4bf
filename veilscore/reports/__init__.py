"""Show what a party may see of a training job: data, views, charts and one offline page."""

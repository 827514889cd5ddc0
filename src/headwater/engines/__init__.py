"""Where the work runs: in this process (`headwater.store.build`), or on the workers of a Ray cluster (`ray`)."""

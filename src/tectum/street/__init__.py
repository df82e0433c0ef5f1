"""A street for synthetic pairs: shapes (rays), surface (materials), ground, houses, things, layout, light."""

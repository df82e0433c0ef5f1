"""Renderer of synthetic streets: shapes (ray casting), surface (materials), ground, houses, cars, street_objects,
layout, light."""

"""The factor laboratory: tiny models, trained from scratch and equal but for one factor, quantized identically."""

"""Who learns: the DCN baseline and the encoder, their losses, training, calibration and prediction."""

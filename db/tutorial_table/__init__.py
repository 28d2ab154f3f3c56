"""What a table ``chatts`` made by the tutorial or its course needs: its upgrade, columns kept equal, privileges."""

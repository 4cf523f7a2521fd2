package vm

func samplePackages() (map[string][]byte, error) { return nil, nil }

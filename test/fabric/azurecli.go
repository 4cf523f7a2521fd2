package fabric

// AzureCLI returns the five lines with which azure-cli uses a fabric: arm is the
// address of its control plane with TLS (fabric serve --arm), ca the file with
// its authority (--ca-out).
//
// By default, some azure-cli request an API version of Compute that is newer than
// the library that they ship; with this profile they request one that the library
// has. The fabric accepts every name and password.
func AzureCLI(arm, ca string) []string {
	return []string{
		"export REQUESTS_CA_BUNDLE=" + ca,
		"az cloud register --name fabric --endpoint-resource-manager https://" + arm + " --profile 2020-09-01-hybrid",
		"az cloud set --name fabric",
		"az login --service-principal --username me --password pw --tenant adfs",
		"az vm list",
	}
}

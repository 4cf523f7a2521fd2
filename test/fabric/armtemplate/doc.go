// Package armtemplate is the language of deployment templates of Azure Resource
// Manager: it reads a template, evaluates its parameters, variables,
// expressions and outputs, and lists its resources in relation to each other.
// It deploys nothing and knows nothing of the emulator: what a template can ask
// about the place where it is deployed is the interface Host.
//
// Begin with template.go; then resources.go (loops, conditions, dependencies),
// evaluate.go and expression.go, and functions.go, the table of functions.
// Messages of errors are the platform's where clients show them to people.
//
// The language: https://learn.microsoft.com/azure/azure-resource-manager/templates/syntax
package armtemplate

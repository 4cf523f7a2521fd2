package armtemplate

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Object is a JSON object.
type Object = map[string]any

// object is Object, for use in this package.
type object = Object

// A Host is the control plane to which a template is deployed. Functions of the
// template language use it.
type Host interface {
	// These return the values of the functions with the same names. The
	// subscriptionId of the subscription and the name of the group are also
	// parts of resource IDs.
	Subscription() Object
	ResourceGroup() Object
	Tenant() Object
	Deployment() Object
	Environment() Object
	// Reference implements the function reference(): it returns a resource by
	// its ID, whole or only its properties. With an empty version the host
	// chooses one.
	Reference(id, version string, whole bool) (any, error)
}

// A Template is a template with the parameters of one deployment. It must not
// be used by several goroutines at the same time.
type Template struct {
	host       Host
	template   object
	given      object // values of parameters
	functions  map[string]function
	parameters map[string]any  // evaluated, by lower-case name
	values     map[string]any  // variables, the same
	busy       map[string]bool // names that are being evaluated
	steps      int             // evaluation steps so far
	resources  []*Resource
}

// Parse parses a template for a deployment to this host.
func Parse(text json.RawMessage, host Host) (*Template, error) {
	var document object
	if err := Decode(text, &document); err != nil {
		return nil, err
	}
	return newTemplate(document, host), nil
}

func newTemplate(document object, host Host) *Template {
	return &Template{
		host: host, template: document, given: object{}, functions: builtins(),
		parameters: map[string]any{}, values: map[string]any{}, busy: map[string]bool{},
	}
}

// Hash returns the template's hash as the platform shows it; canonical is the
// template with sorted keys and without white space.
func Hash(canonical []byte) string { return strconv.FormatUint(murmur(canonical), 10) }

// ContentVersion returns the contentVersion of the template.
func (t *Template) ContentVersion() any { return t.template["contentVersion"] }

// Nullable reports whether a parameter accepts null.
func (t *Template) Nullable(parameter string) bool {
	o, declared := t.declaration("parameters", parameter)
	return declared && o["nullable"] == true
}

// SetParameter sets the value of a parameter.
func (t *Template) SetParameter(name string, value any) { t.given[name] = value }

// Check reports errors in sections, parameters and variables.
func (t *Template) Check() error {
	if err := t.checkSections(); err != nil {
		return err
	}
	unknown := []string{}
	for _, name := range sortedKeys(t.given) {
		if _, ok := t.declaration("parameters", name); !ok {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("the following parameters were supplied, but do not correspond to any parameters defined in the template: '%s'. The parameters defined in the template are: '%s'. Please see https://aka.ms/arm-pass-parameter-values for usage details",
			strings.Join(unknown, ", "), strings.Join(sortedKeys(t.section("parameters")), ", "))
	}
	for _, name := range sortedKeys(t.section("parameters")) {
		if _, err := t.parameter(name); err != nil {
			return err
		}
	}
	for _, name := range sortedKeys(t.section("variables")) {
		if name == "copy" {
			continue
		}
		if _, err := t.variable(name); err != nil {
			return err
		}
	}
	return nil
}

func (t *Template) checkSections() error {
	known := []string{"$schema", "contentversion", "languageversion", "apiprofile", "definitions", "metadata", "parameters", "variables", "functions", "resources", "outputs"}
	for _, key := range sortedKeys(t.template) {
		if !slices.Contains(known, strings.ToLower(key)) {
			return fmt.Errorf("could not find member '%s' on object of type 'Template'", key)
		}
	}
	for _, key := range []string{"$schema", "contentVersion", "resources"} {
		if t.template[key] == nil {
			return fmt.Errorf("required property '%s' not found in JSON", key)
		}
	}
	if list, _ := t.template["functions"].([]any); len(list) > 0 {
		return errors.New("user-defined functions are not supported here")
	}
	return nil
}

// Parameters returns the parameters as the platform shows them: with their
// types, and with their values unless they are secure.
func (t *Template) Parameters() Object {
	out := object{}
	for _, name := range sortedKeys(t.section("parameters")) {
		o, _ := t.declaration("parameters", name)
		kind, _ := o["type"].(string)
		shown := object{"type": typeName(kind)}
		if v, err := t.parameter(name); err == nil && !Secure(o) {
			shown["value"] = v
		}
		out[name] = shown
	}
	return out
}

// CheckOutputs reports errors in the outputs before the deployment.
func (t *Template) CheckOutputs() error {
	return ignoreLater(t.outputs(atPlan))
}

// Outputs evaluates the outputs at the end of the deployment.
func (t *Template) Outputs() (Object, error) { return t.outputs(atRun) }

// ignoreLater drops an error that only means that something must be deployed
// first.
func ignoreLater(_ object, err error) error {
	if errors.Is(err, errLater) {
		return nil
	}
	return err
}

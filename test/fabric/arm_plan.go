package fabric

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// deployable are the types of resources that PUT knows, by lower-case name.
var deployable = []string{
	"microsoft.compute/virtualmachines", "microsoft.compute/virtualmachines/extensions", "microsoft.compute/virtualmachines/runcommands", "microsoft.resources/deployments",
}

// stateSkipped are resources whose condition does not hold, or that depend on
// one that failed.
const stateSkipped = "Skipped"

// A deployItem is one resource of a template.
type deployItem struct {
	key, loop         string // symbolic name; copy loop
	name, kind        string
	id, group         string
	version           string
	raw               object
	scope             *scope
	existing          bool
	needs             []*deployItem
	state             string // empty until it is its turn
	operation         string // its ID among the deployment's operations
	op                *operation
	code              int // of the PUT
	failure           *apiError
	started, finished time.Time
}

func linkRefused() *apiError {
	return refuse(http.StatusBadRequest, "InvalidContentLink", "Unable to download deployment content: links are not supported here. Send the template itself.")
}

func invalid(err error) *apiError {
	return refuse(http.StatusBadRequest, "InvalidTemplate", "Deployment template validation failed: '%v.'", err)
}

// plan reads the template, and finds whatever can be wrong with it before
// anything is deployed.
func (d *deployment) plan() *apiError {
	known := []string{"$schema", "contentversion", "languageversion", "apiprofile", "definitions", "metadata", "parameters", "variables", "functions", "resources", "outputs"}
	for _, key := range sortedKeys(d.template) {
		if !slices.Contains(known, strings.ToLower(key)) {
			return invalid(fmt.Errorf("could not find member '%s' on object of type 'Template'", key))
		}
	}
	for _, key := range []string{"$schema", "contentVersion", "resources"} {
		if d.template[key] == nil {
			return invalid(fmt.Errorf("required property '%s' not found in JSON", key))
		}
	}
	if list, _ := d.template["functions"].([]any); len(list) > 0 {
		return invalid(errors.New("user-defined functions are not supported here"))
	}
	unknown := []string{}
	for _, name := range sortedKeys(d.given) {
		if _, ok := d.declaration("parameters", name); !ok {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		return invalid(fmt.Errorf("the following parameters were supplied, but do not correspond to any parameters defined in the template: '%s'. The parameters defined in the template are: '%s'. Please see https://aka.ms/arm-pass-parameter-values for usage details",
			strings.Join(unknown, ", "), strings.Join(sortedKeys(d.section("parameters")), ", ")))
	}
	for _, name := range sortedKeys(d.section("parameters")) {
		if _, err := d.parameter(name); err != nil {
			return invalid(err)
		}
	}
	for _, name := range sortedKeys(d.section("variables")) {
		if name == "copy" {
			continue
		}
		if _, err := d.variable(name); err != nil {
			return invalid(err)
		}
	}
	top := &scope{d: d, stage: atPlan}
	if err := d.expand(top, d.template["resources"], nil); err != nil {
		return invalid(err)
	}
	if err := d.order(); err != nil {
		return invalid(err)
	}
	for _, it := range d.items {
		if !slices.Contains(deployable, strings.ToLower(it.kind)) && !it.existing && it.state != stateSkipped {
			return refuse(http.StatusBadRequest, "NoRegisteredProviderFound",
				"No registered resource provider found for location '%s' and API version '%s' for type '%s'. The supported types are '%s'.", d.f.opts.Location, it.version, it.kind, strings.Join(deployable, ", "))
		}
		if it.state == stateSkipped {
			continue
		}
		if properties, _ := it.raw["properties"].(object); it.nested() && properties["templateLink"] != nil {
			return linkRefused()
		}
		if _, err := it.body(it.scope); err != nil && !errors.Is(err, errLater) {
			return invalid(fmt.Errorf("the template resource '%s' is not valid: %w", it.name, err))
		}
	}
	if _, err := d.output(top); err != nil && !errors.Is(err, errLater) {
		return invalid(err)
	}
	return nil
}

// expand makes items of resources, which are a list, or an object by symbolic
// name.
func (d *deployment) expand(s *scope, resources any, parent *deployItem) error {
	add := func(key string, v any) error {
		raw, ok := v.(object)
		if !ok {
			return errors.New("a resource is not an object")
		}
		loop, isLoop := raw["copy"].(object)
		if !isLoop {
			return d.addItem(s, raw, key, "", parent)
		}
		name := text(loop["name"])
		n, err := s.count(loop["count"])
		if err != nil {
			return err
		}
		batch, made := 0, []*deployItem{}
		if strings.EqualFold(text(loop["mode"]), "serial") {
			batch = 1
			if size, err := integer(loop["batchSize"]); err == nil && size > 0 {
				batch = int(size)
			}
		}
		for i := range n {
			inner := s.in(name, i)
			at := len(d.items)
			if err := d.addItem(inner, raw, key, name, parent); err != nil {
				return err
			}
			made = append(made, d.items[at])
			if batch > 0 && i >= batch { // the batch before this one's
				d.items[at].needs = slices.Clone(made[i/batch*batch-batch : i/batch*batch])
			}
		}
		return nil
	}
	switch list := resources.(type) {
	case []any:
		for _, v := range list {
			if err := add("", v); err != nil {
				return err
			}
		}
	case object:
		for _, key := range sortedKeys(list) {
			if err := add(key, list[key]); err != nil {
				return err
			}
		}
	}
	if len(d.items) > maxCopies {
		return fmt.Errorf("the template has more than %d resources", maxCopies)
	}
	return nil
}

func (d *deployment) addItem(s *scope, raw object, key, loop string, parent *deployItem) error {
	it := &deployItem{key: key, loop: loop, raw: raw, scope: s, group: d.groupName(), existing: raw["existing"] == true, operation: newGUID()}
	for _, field := range []struct {
		name string
		into *string
	}{{"type", &it.kind}, {"name", &it.name}, {"apiVersion", &it.version}, {"resourceGroup", &it.group}} {
		v, err := s.value(raw[field.name])
		if err == nil && v == nil && field.name == "resourceGroup" {
			continue
		}
		ok := false
		if *field.into, ok = v.(string); err == nil && (!ok || *field.into == "") {
			err = fmt.Errorf("'%s' is required and must be a string", field.name)
		}
		if err != nil {
			return fmt.Errorf("the template resource '%s' is not valid: %w", text(raw["name"]), err)
		}
	}
	if parent != nil {
		it.kind, it.name = parent.kind+"/"+it.kind, parent.name+"/"+it.name
	}
	if raw["scope"] != nil {
		return fmt.Errorf("the template resource '%s' has a scope, which is not supported here", it.name)
	}
	var err error
	if it.id, err = joinID("/subscriptions/"+d.f.opts.Subscription+"/resourceGroups/"+it.group, it.kind, strings.Split(it.name, "/")); err != nil {
		return fmt.Errorf("the template resource '%s' for type '%s' has incorrect segment lengths. A nested resource type must have identical number of segments as its resource name. A root resource type must have segment length one greater than its resource name. Please see https://aka.ms/arm-syntax-resources for usage details", it.name, it.kind)
	}
	if slices.ContainsFunc(d.items, func(x *deployItem) bool { return strings.EqualFold(x.id, it.id) }) {
		return fmt.Errorf("the resource '%s' is defined multiple times in a template. Please see https://aka.ms/arm-syntax-resources for usage details", it.id)
	}
	if c, ok := raw["condition"]; ok {
		v, err := s.value(c)
		holds, isBool := v.(bool)
		if err != nil || !isBool {
			return fmt.Errorf("the condition of the template resource '%s' is not valid: %w", it.name, cmp.Or(err, errArgument))
		}
		if !holds {
			it.state = stateSkipped
		}
	}
	d.items = append(d.items, it)
	if it.existing && it.state == "" {
		it.state = stateSucceeded
	}
	return d.expand(s, raw["resources"], it)
}

// named are the resources that a name means: an ID, a type and names, a name,
// a symbolic name, or a loop.
func (d *deployment) named(name string) (out []*deployItem) {
	for _, it := range d.items {
		path, _ := joinID("", it.kind, strings.Split(it.name, "/")) // was joined before
		turn := ""
		if it.key != "" && it.loop != "" {
			turn = fmt.Sprintf("%s[%d]", it.key, it.scope.loops[strings.ToLower(it.loop)])
		}
		for _, candidate := range []string{turn, it.id, strings.TrimPrefix(path, "/providers/"), it.kind + "/" + it.name, it.name, it.key, it.loop} {
			if candidate != "" && strings.EqualFold(candidate, name) {
				out = append(out, it)
				break
			}
		}
	}
	return out
}

// order finds what each resource waits for, and refuses circles.
func (d *deployment) order() error {
	for _, it := range d.items {
		list, _ := it.raw["dependsOn"].([]any)
		for _, v := range list {
			v, err := it.scope.value(v)
			name, ok := v.(string)
			if err != nil || !ok {
				return fmt.Errorf("the template resource '%s' has an invalid dependency: %w", it.name, cmp.Or(err, errArgument))
			}
			found := d.named(name)
			if len(found) == 0 {
				return fmt.Errorf("the resource '%s' is not defined in the template. Please see https://aka.ms/arm-syntax for usage details", name)
			}
			it.needs = append(it.needs, found...)
		}
		refers := maps.Clone(it.raw)
		delete(refers, "resources")
		if it.nested() && it.inner() {
			delete(refers, "properties")
		}
		for _, e := range d.references(refers) {
			if v, err := it.scope.eval(e); err == nil { // otherwise it depends on something later still
				it.needs = append(it.needs, d.named(text(v))...)
			}
		}
	}
	seen := map[*deployItem]int{} // 1 under way, 2 done
	var visit func(*deployItem) error
	visit = func(it *deployItem) error {
		switch seen[it] {
		case 1:
			return fmt.Errorf("circular dependency detected on resource: '%s'. Please see https://aka.ms/arm-syntax-resources for usage details", it.id)
		case 2:
			return nil
		}
		seen[it] = 1
		for _, other := range it.needs {
			if err := visit(other); err != nil {
				return err
			}
		}
		seen[it] = 2
		return nil
	}
	for _, it := range d.items {
		if err := visit(it); err != nil {
			return err
		}
	}
	return nil
}

func (it *deployItem) nested() bool {
	return strings.EqualFold(it.kind, "Microsoft.Resources/deployments")
}

// inner says that a nested template has parameters and variables of its own.
func (it *deployItem) inner() bool {
	properties, _ := it.raw["properties"].(object)
	options, _ := properties["expressionEvaluationOptions"].(object)
	return strings.EqualFold(text(options["scope"]), "inner")
}

// body is what is PUT.
func (it *deployItem) body(s *scope) (object, error) {
	if it.existing {
		return object{}, nil
	}
	raw := object{}
	for key, v := range it.raw {
		switch key {
		case "name", "type", "apiVersion", "dependsOn", "condition", "copy", "resources", "comments", "metadata", "scope", "existing", "resourceGroup", "subscriptionId":
		default:
			raw[key] = v
		}
	}
	var template any
	if properties, ok := raw["properties"].(object); ok && it.nested() {
		properties = maps.Clone(properties)
		if template = properties["template"]; template != nil && it.inner() {
			delete(properties, "template")
		}
		raw["properties"] = properties
	}
	v, err := s.value(raw)
	if err != nil {
		return nil, err
	}
	out := v.(object) //nolint:forcetypeassert // an object's value is one
	if properties, ok := out["properties"].(object); ok && template != nil {
		if it.inner() {
			properties["template"] = template
		} else {
			properties["template"] = escaped(properties["template"])
		}
	}
	return out, nil
}

// escaped protects what has been evaluated from being evaluated again.
func escaped(v any) any {
	switch v := v.(type) {
	case string:
		if strings.HasPrefix(v, "[") && strings.HasSuffix(v, "]") {
			return "[" + v
		}
		return v
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = escaped(item)
		}
		return out
	case object:
		out := object{}
		for key, item := range v {
			out[key] = escaped(item)
		}
		return out
	}
	return v
}

// reference reads a resource of the template, or any other by its ID.
func reference(s *scope, a []any) (any, error) {
	if s.stage != atRun {
		return nil, errLater
	}
	name, version := text(a[0]), "2024-07-01"
	if found := s.d.named(name); len(found) > 0 {
		name, version = found[0].id, found[0].version
		if found[0].state == stateSkipped {
			return nil, fmt.Errorf("the resource '%s' is not deployed", name)
		}
	} else if !strings.HasPrefix(name, "/") {
		return nil, fmt.Errorf("the template reference '%s' is not valid: could not find template resource or resource copy with this name. Please see https://aka.ms/arm-function-reference for usage details", name)
	}
	if len(a) > 1 && text(a[1]) != "" {
		version = text(a[1])
	}
	answer, refusal := s.d.f.ask(http.MethodGet, name, version, nil)
	if refusal != nil {
		return nil, fmt.Errorf("%s: %s", refusal.Code, refusal.Message)
	}
	var doc object
	if err := decodeJSON(answer.body, &doc); err != nil {
		return nil, err
	}
	if len(a) == 3 && strings.EqualFold(text(a[2]), "Full") {
		return doc, nil
	}
	return doc["properties"], nil
}

// ask sends the control plane a request of its own.
func (f *Fabric) ask(method, path, version string, body any) (*answer, *apiError) {
	r := &http.Request{Method: method, Host: ManagementHost, Header: http.Header{}, URL: &url.URL{Path: path, RawQuery: "api-version=" + url.QueryEscape(version)}}
	sent := &request{Request: r, kind: Control}
	if body != nil {
		sent.body = encode(body)
	}
	return f.route(sent)
}

package fabric

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
)

// template returns a template with these sections.
func template(sections object) object {
	t := object{"$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#", "contentVersion": "1.0.0.0", "resources": []any{}}
	maps.Copy(t, sections)
	return t
}

// extensionOf returns an extension resource for a template.
func extensionOf(name, handler string, more object) object {
	publisher, kind := splitHandler(handler)
	r := object{
		"type": "Microsoft.Compute/virtualMachines/extensions", "apiVersion": "2024-07-01", "name": "vm-01/" + name, "location": "westeurope",
		"properties": object{"publisher": publisher, "type": kind, "typeHandlerVersion": "1.0", "settings": object{"of": name}},
	}
	maps.Copy(r, more)
	return r
}

func (c client) deployments(path string) string {
	return c.subscription("/resourcegroups/rg/providers/Microsoft.Resources/deployments"+path, "2022-09-01")
}

func (c client) deploy(name string, template object, parameters object) (int, http.Header, map[string]any) {
	c.t.Helper()
	return c.arm("PUT", c.deployments("/"+name), object{"properties": object{"mode": "Incremental", "template": template, "parameters": parameters}})
}

// refused returns the code and message of ARM's error in a document.
func refused(doc map[string]any) (code, message string) {
	e, _ := doc["error"].(map[string]any)
	return fmt.Sprint(e["code"]), fmt.Sprint(e["message"])
}

// evaluate deploys a template that has one output and no resources, and returns
// that output.
func evaluate(c client, expression any, sections object) (any, string) {
	t := template(object{"outputs": object{"x": object{"type": "object", "value": expression}}})
	maps.Copy(t, sections)
	code, _, doc := c.deploy("language", t, nil)
	if code >= 300 {
		code, message := refused(doc)
		return nil, code + ": " + message
	}
	_, _, doc = c.arm("GET", c.deployments("/language"), nil)
	p, _ := doc["properties"].(map[string]any)
	if p["provisioningState"] != "Succeeded" {
		return nil, fmt.Sprint(p["error"])
	}
	return p["outputs"].(map[string]any)["x"].(map[string]any)["value"], ""
}

func TestTemplateFunctions(t *testing.T) {
	_, vm, c := testFabric(t)
	sections := object{
		"parameters": object{"who": object{"type": "string", "defaultValue": "World"}, "list": object{"type": "array", "defaultValue": []any{"a", "b"}}},
		"variables": object{
			"greeting": "[concat('Hello ', parameters('WHO'))]", "o": object{"Name": "n", "inner": object{"deep": []any{1, object{"x": "y"}}}},
			"copy": []any{object{"name": "loop", "count": 2, "input": "[concat('i', copyIndex('loop', 1))]"}},
		},
	}
	const group = "/subscriptions/00000000-0000-4000-8000-00000000f00d/resourceGroups/rg"
	for expression, want := range map[string]string{
		`plain`:                                          `"plain"`,
		`[[not an expression]`:                           `"[not an expression]"`,
		`[[ -f /etc/x ]] && true`:                        `"[[ -f /etc/x ]] && true"`,
		`[parameters('who')]`:                            `"World"`,
		`[ variables ( 'greeting' ) ]`:                   `"Hello World"`,
		`[variables('o').name]`:                          `"n"`,
		`[variables('o').inner.deep[1]['x']]`:            `"y"`,
		`[variables('o').?nothing]`:                      `null`,
		`[variables('loop')]`:                            `["i1","i2"]`,
		`[concat('it''s', 1, true())]`:                   `"it's1True"`,
		`[concat(parameters('list'), createArray('c'))]`: `["a","b","c"]`,
		`[format('{0}-{1:D3}{{}}', 'a', 7)]`:             `"a-007{}"`,
		`[resourceId('Microsoft.Compute/virtualMachines/extensions', 'vm', 'e')]`: `"` + group + `/providers/Microsoft.Compute/virtualMachines/vm/extensions/e"`,
		`[resourceId('other', 'A.B/c', 'd')]`:                                     `"` + strings.TrimSuffix(group, "rg") + `other/providers/A.B/c/d"`,
		`[resourceId('s', 'g', 'A.B/c', 'd')]`:                                    `"/subscriptions/s/resourceGroups/g/providers/A.B/c/d"`,
		`[extensionResourceId('/x', 'A.B/c', 'd')]`:                               `"/x/providers/A.B/c/d"`,
		`[subscriptionResourceId('A.B/c', 'd')]`:                                  `"/subscriptions/00000000-0000-4000-8000-00000000f00d/providers/A.B/c/d"`,
		`[subscription().subscriptionId]`:                                         `"00000000-0000-4000-8000-00000000f00d"`,
		`[resourceGroup().location]`:                                              `"westeurope"`,
		`[resourceGroup().id]`:                                                    `"` + group + `"`,
		`[deployment().name]`:                                                     `"language"`,
		`[contains(environment(), 'resourceManager')]`:                            `true`,
		`[toUpper(toLower('Ab'))]`:                                                `"AB"`,
		`[string(createObject('a', 1))]`:                                          `"{\"a\":1}"`,
		`[int('42')]`:                                                             `42`,
		`[bool('true')]`:                                                          `true`,
		`[json('{"a":[1.50,null]}').a]`:                                           `[1.50,null]`,
		`[base64('ä')]`:                                                           `"w6Q="`,
		`[base64ToString('w6Q=')]`:                                                `"ä"`,
		`[uniqueString('test')]`:                                                  `"rbgf3xv4ufgzg"`,
		`[uniqueString('hello', 'world')]`:                                        `"a7wkljktk6wne"`,
		`[uniqueString('abc')]`:                                                   `"cgtzqvhu4i23s"`,
		`[uniqueString('/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/my-rg')]`: `"bmg7c6xu4tw46"`,
		`[length(guid('a', 'b'))]`:                `36`,
		`[replace('a-b-c', '-', '')]`:             `"abc"`,
		`[split('a,b;c', createArray(',', ';'))]`: `["a","b","c"]`,
		`[join(parameters('list'), '+')]`:         `"a+b"`,
		`[substring('hello', 1, 3)]`:              `"ell"`,
		`[trim('  x ')]`:                          `"x"`,
		`[length(parameters('list'))]`:            `2`,
		`[createArray(empty(''), empty(null()), empty('a'), empty(createArray()))]`:                 `[true,true,false,true]`,
		`[contains(parameters('list'), 'b')]`:                                                       `true`,
		`[createArray(first('abc'), last(parameters('list')), first(createArray()))]`:               `["a","b",null]`,
		`[if(equals('a', 'A'), div(1, 0), 'lazy')]`:                                                 `"lazy"`,
		`[and(true(), not(or(false(), false())))]`:                                                  `true`,
		`[and(false(), bool('nonsense'))]`:                                                          `false`,
		`[coalesce(null(), 'x')]`:                                                                   `"x"`,
		`[array('a')]`:                                                                              `["a"]`,
		`[union(createObject('a', createObject('b', 1)), createObject('a', createObject('c', 2)))]`: `{"a":{"b":1,"c":2}}`,
		`[union(parameters('list'), createArray('b', 'c'))]`:                                        `["a","b","c"]`,
		`[range(3, 2)]`: `[3,4]`,
		`[createArray(add(1, 2), sub(1, 2), mul(3, -4), div(7, 2), mod(7, 2))]`:                                 `[3,-1,-12,3,1]`,
		`[createArray(less(1, 2), greaterOrEquals('b', 'a'))]`:                                                  `[true,true]`,
		`[uri('https://host/a/', 'b.sh')]`:                                                                      `"https://host/a/b.sh"`,
		`[createArray(take('abc', 2), skip('abc', 5), take(createArray(1, 2), 1), skip(createArray(1, 2), 1))]`: `["ab","",[1],[2]]`,
		`[createArray(padLeft('7', 3, '0'), padLeft(12345, 3), indexOf('aBc', 'b'), lastIndexOf('abab', 'x'))]`: `["007","12345",1,-1]`,
		`[items(createObject('b', 2, 'a', 1))]`:                                                                 `[{"key":"a","value":1},{"key":"b","value":2}]`,
		`[createArray(min(3, 1, 2), max(createArray(3, 4)))]`:                                                   `[1,4]`,
		`[tenant().tenantId]`:     `"` + tenant + `"`,
		`[uriComponent('a b/c')]`: `"a%20b%2Fc"`,
		`[reference(resourceId('Microsoft.Compute/virtualMachines', 'vm-01'), '2024-07-01').vmId]`:             `"` + vm.id + `"`,
		`[reference(resourceId('Microsoft.Compute/virtualMachines', 'vm-01'), '2024-07-01', 'Full').location]`: `"westeurope"`,
	} {
		got, failure := evaluate(c, expression, sections)
		gotJSON, _ := json.Marshal(got) //nolint:errchkjson // got consists of JSON values
		var a, b any
		if json.Unmarshal(gotJSON, &a) != nil || json.Unmarshal([]byte(want), &b) != nil || failure != "" || fmt.Sprintf("%#v", a) != fmt.Sprintf("%#v", b) {
			t.Errorf("%s: %s %s, want %s", expression, gotJSON, failure, want)
		}
	}
	// Property loops are expanded, names are evaluated, and numbers keep their
	// spelling.
	got, failure := evaluate(c, object{"copy": []any{object{"name": "list", "count": 2, "input": object{"i": "[copyIndex('list')]"}}}, "[toLower('KEY')]": "[[x]", "n": json.Number("12345678901234567")}, nil)
	if s := fmt.Sprint(got); failure != "" || !strings.Contains(s, "list:[map[i:0] map[i:1]]") || !strings.Contains(s, "key:[x]") {
		t.Errorf("object: %v %s", got, failure)
	}
}

func TestTemplateErrors(t *testing.T) {
	_, _, c := testFabric(t)
	deep := strings.Repeat("not(", 100) + "true()" + strings.Repeat(")", 100)
	for expression, want := range map[string]string{
		`[nonsense('a')]`:                      "'nonsense' is not valid",
		`[contoso.fn()]`:                       "'contoso.fn' is not valid",
		`[concat('a']`:                         "expected ',' or ')'",
		`[concat('a)]`:                         "not terminated",
		`['a' 'b']`:                            "expected the end",
		`[parameters]`:                         "expected '('",
		`[1x]`:                                 "is not a number",
		`[not()]`:                              "argument(s)",
		`[parameters('nobody')]`:               "'nobody' is not found",
		`[variables('nobody')]`:                "'nobody' is not found",
		`[variables('a')]`:                     "circular dependency",
		`[resourceGroup().nothing]`:            "doesn't exist",
		`[createArray(1)[1]]`:                  "out of bounds",
		`['text'.x]`:                           "no properties",
		`[div(1, 0)]`:                          "divide by zero",
		`[padLeft('a', 100000)]`:               "of the expected type",
		`[min()]`:                              "argument(s)",
		`[int('x')]`:                           "not an integer",
		`[substring('abc', 2, 5)]`:             "within the string",
		`[resourceId('A.B/c/d', 'x')]`:         "requires '2'",
		`[range(0, 10001)]`:                    "10000",
		`[format('{1}', 'a')]`:                 "format is invalid",
		`[copyIndex()]`:                        "copyIndex",
		`[utcNow()]`:                           "not expected at this location",
		`[newGuid()]`:                          "not expected at this location",
		`[reference('nobody').x]`:              "could not find template resource",
		"[" + deep + "]":                       "nested deeper",
		"[" + strings.Repeat(" ", 24576) + "]": "limit exceeded",
	} {
		sections := object{}
		if strings.Contains(expression, "variables('a')") {
			sections["variables"] = object{"a": "[variables('b')]", "b": "[variables('a')]"}
		}
		if got, failure := evaluate(c, expression, sections); !strings.Contains(failure, want) {
			t.Errorf("%.60s: %v %s, want %q", expression, got, failure, want)
		}
	}

	one := extensionOf("one", "Contoso.One", nil)
	parameters := func(o object) object { return template(object{"parameters": object{"p": o}}) }
	given := func(v any) object { return object{"p": object{"value": v}} }
	for name, test := range map[string]struct {
		template, parameters object
		code, message        string
	}{
		"no value":                {parameters(object{"type": "string"}), nil, "InvalidTemplate", "'p' is not provided"},
		"null":                    {parameters(object{"type": "string"}), given(nil), "InvalidDeploymentParameterValue", "'p' is null"},
		"unknown":                 {template(nil), given("x"), "InvalidTemplate", "do not correspond to any parameters defined"},
		"another type":            {parameters(object{"type": "string"}), given(1), "InvalidTemplate", "Expected 'String, Uri'. Actual 'Integer'"},
		"no such type":            {parameters(object{"type": "strin"}), given("x"), "InvalidTemplate", "'strin'"},
		"not allowed":             {parameters(object{"type": "string", "allowedValues": []any{"a"}}), given("b"), "InvalidTemplate", "The value 'b' is not part of the allowed"},
		"too short":               {parameters(object{"type": "string", "minLength": 2}), given("b"), "InvalidTemplate", "minLength"},
		"too large":               {parameters(object{"type": "int", "maxValue": 2}), given(3), "InvalidTemplate", "maxValue"},
		"key vault":               {parameters(object{"type": "string"}), object{"p": object{"reference": object{}}}, "KeyVaultParameterReferenceNotSupported", "'p'"},
		"no schema":               {object{"contentVersion": "1.0.0.0", "resources": []any{}}, nil, "InvalidTemplate", "'$schema'"},
		"misspelt":                {template(object{"outputz": object{}}), nil, "InvalidTemplate", "'outputz'"},
		"misspelt member":         {template(object{"resources": []any{extensionOf("one", "Contoso.One", object{"dependOn": []any{"x"}})}}), nil, "InvalidTemplate", "'dependOn' on object of type 'TemplateResource'. Path 'resources[0].dependOn'. Did you mean 'dependsOn'?"},
		"misspelt member by name": {template(object{"languageVersion": "2.0", "resources": object{"e": extensionOf("one", "Contoso.One", object{"condtion": false})}}), nil, "InvalidTemplate", "Path 'resources.e.condtion'"},
		"misspelt parameter":      {parameters(object{"type": "string", "alowedValues": []any{"a"}}), given("b"), "InvalidTemplate", "Did you mean 'allowedValues'?"},
		"misspelt output":         {template(object{"outputs": object{"o": object{"type": "string", "vlaue": "x"}}}), nil, "InvalidTemplate", "Path 'outputs.o.vlaue'"},
		"misspelt in a nested template": {template(object{"resources": []any{object{
			"type": "Microsoft.Resources/deployments", "apiVersion": "2021-04-01", "name": "n",
			"properties": object{"mode": "Incremental", "template": template(object{"resources": []any{extensionOf("one", "Contoso.One", object{"dependson_": nil, "dependOn": []any{}})}})},
		}}}), nil, "InvalidTemplate", "Path 'resources[0].properties.template.resources[0].depend"},
		"functions":      {template(object{"functions": []any{object{}}}), nil, "InvalidTemplate", "functions"},
		"twice":          {template(object{"resources": []any{one, one}}), nil, "InvalidTemplate", "multiple times"},
		"segments":       {template(object{"resources": []any{extensionOf("one/more", "Contoso.One", nil)}}), nil, "InvalidTemplate", "incorrect segment lengths"},
		"no version":     {template(object{"resources": []any{extensionOf("one", "Contoso.One", object{"apiVersion": nil})}}), nil, "InvalidTemplate", "'apiVersion'"},
		"dependency":     {template(object{"resources": []any{extensionOf("one", "Contoso.One", object{"dependsOn": []any{"nobody"}})}}), nil, "InvalidTemplate", "'nobody' is not defined"},
		"condition":      {template(object{"resources": []any{extensionOf("one", "Contoso.One", object{"condition": "yes"})}}), nil, "InvalidTemplate", "condition"},
		"early":          {template(object{"resources": []any{extensionOf("one", "Contoso.One", object{"condition": "[reference('x').y]"})}}), nil, "InvalidTemplate", "not expected at this location"},
		"copies":         {template(object{"resources": []any{extensionOf("one", "Contoso.One", object{"copy": object{"name": "c", "count": 801}})}}), nil, "InvalidTemplate", "801"},
		"unknown within": {template(object{"resources": []any{extensionOf("one", "Contoso.One", object{"tags": object{"a": "[listKeys('x')]"}})}}), nil, "InvalidTemplate", "'listKeys'"},
		"circle": {template(object{"resources": []any{
			extensionOf("one", "Contoso.One", object{"dependsOn": []any{"vm-01/two"}}), extensionOf("two", "Contoso.Two", object{"dependsOn": []any{"vm-01/one"}}),
		}}), nil, "InvalidTemplate", "ircular dependency detected on resource"},
		"another provider": {template(object{"resources": []any{object{"type": "Microsoft.Storage/storageAccounts", "apiVersion": "2023-01-01", "name": "s"}}}), nil, "NoRegisteredProviderFound", "Microsoft.Storage/storageAccounts"},
	} {
		status, _, doc := c.deploy("bad", test.template, test.parameters)
		if code, message := refused(doc); status != 400 || code != test.code || !strings.Contains(message, test.message) {
			t.Errorf("%s: %d %s %s", name, status, code, message)
		}
		status, _, doc = c.arm("POST", c.deployments("/bad/validate"), object{"properties": object{"mode": "Incremental", "template": test.template, "parameters": test.parameters}})
		if code, _ := refused(doc); status != 400 || code != test.code {
			t.Errorf("%s, validated: %d %v", name, status, doc)
		}
	}
	for code, properties := range map[string]object{
		"DeploymentModeNotSupported": {"mode": "Complete", "template": template(nil)}, "InvalidRequestContent": {"template": template(nil)},
		"InvalidContentLink": {"mode": "Incremental", "templateLink": object{"uri": "https://host/t.json"}}, "InvalidTemplate": {"mode": "Incremental"},
	} {
		if status, _, doc := c.arm("PUT", c.deployments("/bad"), object{"properties": properties}); status != 400 || !strings.Contains(fmt.Sprint(doc), code) {
			t.Errorf("%s: %d %v", code, status, doc)
		}
	}
	if status, _, doc := c.arm("GET", c.deployments("/bad"), nil); status != 404 || !strings.Contains(fmt.Sprint(doc), "DeploymentNotFound") {
		t.Errorf("a refused deployment: %d %v", status, doc)
	}
}

// reports uploads a status document with these rows as the machine's.
func (c client) reports(rows ...row) {
	c.putStatus(statusBody(fmt.Sprint(c.vm.Incarnation()), rows...))
}

func TestDeployment(t *testing.T) {
	f, vm, c := testFabric(t)
	doc := template(object{
		"parameters": object{
			"vm": object{"type": "string"}, "n": object{"type": "int", "defaultValue": 2}, "at": object{"type": "string", "defaultValue": "[utcNow()]"},
			"secret": object{"type": "secureString"}, "first": object{"type": "string", "allowedValues": []any{"a", "b"}, "defaultValue": "a"},
		},
		"resources": []any{
			extensionOf("two", "Contoso.Two", object{
				"name": "[format('{0}/two', parameters('vm'))]", "dependsOn": []any{"[resourceId('Microsoft.Compute/virtualMachines/extensions', parameters('vm'), 'one')]", "many"},
				"properties": object{"publisher": "Contoso", "type": "Two", "typeHandlerVersion": "1.0", "settings": object{"state": "[reference(resourceId('Microsoft.Compute/virtualMachines/extensions', parameters('vm'), 'one')).provisioningState]"}},
			}),
			extensionOf("one", "Contoso.One", object{
				"name":       "[concat(parameters('vm'), '/one')]",
				"properties": object{"publisher": "Contoso", "type": "One", "typeHandlerVersion": "1.0", "settings": object{"big": json.Number("12345678901234567")}, "protectedSettings": object{"s": "[parameters('secret')]"}},
			}),
			extensionOf("many", "Contoso.Multi", object{"name": "[concat('vm-01/many', copyIndex(1))]", "copy": object{"name": "many", "count": "[parameters('n')]"}}),
			extensionOf("never", "Contoso.Nobody", object{"condition": "[equals(parameters('first'), 'b')]"}),
		},
		"outputs": object{
			"id":     object{"type": "string", "value": "[resourceId('Microsoft.Compute/virtualMachines/extensions', parameters('vm'), 'two')]"},
			"hidden": object{"type": "securestring", "value": "[parameters('secret')]"},
		},
	})
	parameters := object{"vm": object{"value": "vm-01"}, "secret": object{"value": "hunter2"}}
	code, _, valid := c.arm("POST", c.deployments("/first/validate"), object{"properties": object{"mode": "Incremental", "template": doc, "parameters": parameters}})
	if p, _ := valid["properties"].(map[string]any); code != 200 || len(p["validatedResources"].([]any)) != 4 || len(vm.extensions) != 0 {
		t.Fatalf("validate: %d %v", code, valid)
	}
	code, header, made := c.deploy("first", doc, parameters)
	if p := made["properties"].(map[string]any); code != 201 || p["provisioningState"] != "Accepted" || p["templateHash"] == "" || p["mode"] != "Incremental" {
		t.Fatalf("put: %d %v", code, made)
	}
	if strings.Contains(fmt.Sprint(made), "hunter2") {
		t.Errorf("a secret came back: %v", made)
	}
	if journal, err := json.Marshal(f.Journal(Query{Kind: Control})); err != nil || strings.Contains(string(journal), "hunter2") {
		t.Errorf("a secret is in the journal, %v", err)
	}
	if !strings.Contains(header.Get("Azure-AsyncOperation"), "/deployments/first/operationStatuses/") || c.poll(header)["status"] != "Running" {
		t.Fatalf("header %v", header)
	}
	if code, _, doc := c.deploy("first", template(nil), nil); code != 409 || !strings.Contains(fmt.Sprint(doc), "DeploymentActive") {
		t.Errorf("at the same time: %d %v", code, doc)
	}
	if len(vm.extensions) != 3 { // resources without dependencies are deployed in parallel
		t.Fatalf("%d extensions", len(vm.extensions))
	}
	one := handlerOf("Contoso.One", "1.0.10", "Ready", 0, "").ext(0, "", "success", "")
	many := func(name string) row {
		return handlerOf("Contoso.Multi", "1.0.0", "Ready", 0, "").ext(0, name, "success", "")
	}
	c.reports(one, many("many1"))
	if len(vm.extensions) != 3 || c.poll(header)["status"] != "Running" {
		t.Errorf("did not wait for the loop: %d extensions", len(vm.extensions))
	}
	c.reports(one, many("many1"), many("many2"))
	if len(vm.extensions) != 4 || string(vm.extensions[3].settings) != `{"state":"Succeeded"}` { // without a client's poll in between
		t.Fatalf("%d extensions, %s", len(vm.extensions), vm.extensions[len(vm.extensions)-1].settings)
	}
	if string(vm.extensions[0].settings) != `{"big":12345678901234567}` {
		t.Errorf("settings %s", vm.extensions[0].settings)
	}
	c.reports(one, many("many1"), many("many2"), handlerOf("Contoso.Two", "1.0.0", "Ready", 0, "").ext(0, "", "success", ""))
	if op := c.poll(header); op["status"] != "Succeeded" {
		t.Fatalf("end: %v", op)
	}
	_, _, got := c.arm("GET", c.deployments("/FIRST"), nil)
	p := got["properties"].(map[string]any)
	outputs := p["outputs"].(map[string]any)
	if p["provisioningState"] != "Succeeded" || len(p["outputResources"].([]any)) != 4 || p["correlationId"] == "" || !strings.HasPrefix(p["duration"].(string), "PT") ||
		!strings.HasSuffix(fmt.Sprint(outputs["id"].(map[string]any)["value"]), "/virtualMachines/vm-01/extensions/two") || fmt.Sprint(outputs["hidden"]) != "map[type:SecureString]" ||
		fmt.Sprint(p["parameters"].(map[string]any)["secret"]) != "map[type:SecureString]" || fmt.Sprint(p["parameters"].(map[string]any)["n"]) != "map[type:Int value:2]" {
		t.Errorf("deployed: %v", got)
	}
	_, _, list := c.arm("GET", c.deployments("/first/operations"), nil)
	operations := list["value"].([]any)
	if len(operations) != 4 {
		t.Fatalf("operations: %v", list)
	}
	id := operations[0].(map[string]any)["operationId"].(string)
	if code, _, doc := c.arm("GET", c.subscription("/resourcegroups/rg/deployments/first/operations/"+id, "2022-09-01"), nil); code != 200 || doc["operationId"] != id {
		t.Errorf("operation at its other address: %d %v", code, doc)
	}
	if code, _, doc := c.arm("GET", c.deployments("/first/operations/"+id), nil); code != 200 || doc["operationId"] != id || !strings.Contains(fmt.Sprint(doc), "statusCode:Created") {
		t.Errorf("operation: %d %v", code, doc)
	}
	if _, _, back := c.arm("POST", c.deployments("/first/exportTemplate"), nil); len(back["template"].(map[string]any)["resources"].([]any)) != 4 {
		t.Errorf("exported: %v", back)
	}
	if code, _, _ := c.do("HEAD", c.deployments("/first"), nil, nil); code != 204 {
		t.Errorf("head: %d", code)
	}
	if _, _, list := c.arm("GET", c.deployments(""), nil); len(list["value"].([]any)) != 1 {
		t.Errorf("list: %v", list)
	}
	if code, _, doc := c.arm("POST", c.deployments("/first/cancel"), nil); code != 409 {
		t.Errorf("cancel what is over: %d %v", code, doc)
	}
	// Deploying the same template again changes nothing and ends at once.
	if code, header, _ := c.deploy("first", template(object{"resources": []any{extensionOf("one", "Contoso.One", object{"condition": false})}}), nil); code != 200 || c.poll(header)["status"] != "Succeeded" {
		t.Errorf("again: %d", code)
	}
	code, header, _ = c.arm("DELETE", c.deployments("/first"), nil)
	if code != 202 || header.Get("Location") == "" || len(vm.extensions) != 4 {
		t.Errorf("delete: %d %v", code, header)
	}
	if code, _, _ := c.do("HEAD", c.deployments("/first"), nil, nil); code != 404 {
		t.Errorf("head of nothing: %d", code)
	}
	if code, _, _ := c.arm("DELETE", c.deployments("/first"), nil); code != 204 {
		t.Errorf("delete again: %d", code)
	}
}

// TestFailedDeployment: the errors have the structure that scripts parse.
func TestFailedDeployment(t *testing.T) {
	_, vm, c := testFabric(t)
	_, header, _ := c.deploy("bad", template(object{"resources": []any{
		extensionOf("one", "Contoso.One", nil), extensionOf("two", "Contoso.Two", object{"dependsOn": []any{"vm-01/one"}}),
		extensionOf("three", "Contoso.Two", object{"dependsOn": []any{"vm-01/two"}}),
		extensionOf("multi", "Contoso.Nobody", nil),
	}}), nil)
	c.reports(handlerOf("Contoso.One", "1.0.10", "Ready", 0, "").ext(0, "", "error", "it broke"))
	op := c.poll(header)
	if op["status"] != "Failed" || len(vm.extensions) != 1 {
		t.Fatalf("%v, %d extensions", op, len(vm.extensions))
	}
	e := op["error"].(map[string]any)
	details := e["details"].([]any)
	if e["code"] != "DeploymentFailed" || len(details) != 2 {
		t.Fatalf("error %v", e)
	}
	broken, refusal := details[0].(map[string]any), details[1].(map[string]any)
	cause := broken["details"].([]any)[0].(map[string]any)
	if broken["code"] != "ResourceDeploymentFailure" || !strings.Contains(fmt.Sprint(broken["message"]), "terminal provisioning state 'Failed'") ||
		cause["code"] != "VMExtensionProvisioningError" || !strings.Contains(fmt.Sprint(cause["message"]), "it broke") || !strings.HasSuffix(fmt.Sprint(cause["target"]), "/extensions/one") {
		t.Errorf("an extension that fails: %v", broken)
	}
	if refusal["code"] != "ArtifactNotFound" || !strings.HasSuffix(fmt.Sprint(refusal["target"]), "/extensions/multi") {
		t.Errorf("one that is refused: %v", refusal)
	}
	_, _, list := c.arm("GET", c.deployments("/bad/operations"), nil)
	if s := fmt.Sprint(list); strings.Count(s, "statusMessage") != 2 || !strings.Contains(s, "statusCode:NotFound") || !strings.Contains(s, "statusCode:Conflict") {
		t.Errorf("operations: %v", list)
	}
	if _, _, doc := c.arm("GET", c.deployments("/bad"), nil); !strings.Contains(fmt.Sprint(doc["properties"].(map[string]any)["error"]), "it broke") {
		t.Errorf("deployment: %v", doc)
	}
	// A VM that does not exist, and an extension whose status the guest never
	// reports.
	_, header, _ = c.deploy("lost", template(object{"resources": []any{extensionOf("x", "Contoso.One", object{"name": "nobody/x"})}}), nil)
	if op := c.poll(header); op["status"] != "Failed" || !strings.Contains(fmt.Sprint(op), "ParentResourceNotFound") {
		t.Errorf("lost: %v", op)
	}
	_, header, _ = c.deploy("slow", template(object{"resources": []any{extensionOf("one", "Contoso.One", nil)}}), nil)
	if code, _, _ := c.arm("DELETE", c.deployments("/slow"), nil); code != 409 {
		t.Errorf("delete what runs: %d", code)
	}
	if code, _, doc := c.arm("POST", c.deployments("/slow/cancel"), nil); code != 204 || c.poll(header)["status"] != "Canceled" {
		t.Errorf("cancel: %d %v", code, doc)
	}
}

// TestBicep: symbolic names, an existing machine, a loop by its name and a
// module, as Bicep writes them.
func TestBicep(t *testing.T) {
	_, vm, c := testFabric(t)
	module := template(object{
		"languageVersion": "2.0", "parameters": object{"vm": object{"type": "string"}, "secret": object{"type": "securestring"}, "opt": object{"type": "string", "nullable": true}},
		"variables": object{"inner": "[toUpper(parameters('vm'))]"},
		"resources": object{"x": object{
			"type": "Microsoft.Compute/virtualMachines/extensions", "apiVersion": "2024-07-01", "name": "[format('{0}/{1}', parameters('vm'), 'two')]", "location": "[resourceGroup().location]",
			"properties": object{"publisher": "Contoso", "type": "Two", "typeHandlerVersion": "1.0", "settings": object{"v": "[variables('inner')]", "text": "[[x]"}},
		}},
		"outputs": object{"name": object{"type": "string", "value": "[variables('inner')]"}},
	})
	doc := template(object{
		"languageVersion": "2.0", "metadata": object{"_generator": object{"name": "bicep"}},
		"definitions": object{"t": object{"type": "object"}}, "parameters": object{"o": object{"$ref": "#/definitions/t", "defaultValue": object{"vm": "vm-01"}}},
		"resources": object{
			"vm": object{"existing": true, "type": "Microsoft.Compute/virtualMachines", "apiVersion": "2024-07-01", "name": "[parameters('o').vm]"},
			"many": extensionOf("", "Contoso.Multi", object{
				"copy": object{"name": "many", "count": "[length(range(0, 2))]", "mode": "serial", "batchSize": 1},
				"name": "[format('{0}/{1}', parameters('o').vm, format('m{0}', range(0, 2)[copyIndex()]))]", "dependsOn": []any{"vm"},
			}),
			"module": object{
				"type": "Microsoft.Resources/deployments", "apiVersion": "2022-09-01", "name": "module", "dependsOn": []any{"[format('many[{0}]', 1)]"},
				"properties": object{
					"expressionEvaluationOptions": object{"scope": "inner"}, "mode": "Incremental", "template": module,
					"parameters": object{"vm": object{"value": "[reference('vm', '2024-07-01', 'full').name]"}, "secret": object{"value": "s3cret"}},
				},
			},
		},
		"outputs": object{"from": object{"type": "string", "value": "[reference('module').outputs.name.value]"}},
	})
	code, header, made := c.deploy("main", doc, nil)
	if code != 201 || len(vm.extensions) != 1 {
		t.Fatalf("%d %v, %d extensions", code, made, len(vm.extensions))
	}
	many := func(name string) row {
		return handlerOf("Contoso.Multi", "1.0.0", "Ready", 0, "").ext(0, name, "success", "")
	}
	c.reports(many("m0"))
	if len(vm.extensions) != 2 {
		t.Fatalf("%d extensions in turn", len(vm.extensions))
	}
	c.reports(many("m0"), many("m1"))
	if len(vm.extensions) != 3 || string(vm.extensions[2].settings) != `{"text":"[x]","v":"VM-01"}` {
		t.Fatalf("%d extensions: %v", len(vm.extensions), c.poll(header))
	}
	c.reports(many("m0"), many("m1"), handlerOf("Contoso.Two", "1.0.0", "Ready", 0, "").ext(0, "", "success", ""))
	_, _, got := c.arm("GET", c.deployments("/main"), nil)
	if p := got["properties"].(map[string]any); fmt.Sprint(p["outputs"]) != "map[from:map[type:String value:VM-01]]" {
		t.Errorf("outputs: %v, operation %v", p, c.poll(header))
	}
	if _, _, doc := c.arm("GET", c.deployments("/module"), nil); strings.Contains(fmt.Sprint(doc), "s3cret") || doc["name"] != "module" {
		t.Errorf("module: %v", doc)
	}
	// A nested template without a scope of its own uses the outer template's. A
	// resource inside another is its child.
	_, header, _ = c.deploy("outer", template(object{
		"variables": object{"who": "outer"},
		"resources": []any{
			object{"type": "Microsoft.Resources/deployments", "apiVersion": "2022-09-01", "name": "nested", "properties": object{"mode": "Incremental", "template": template(object{
				"resources": []any{extensionOf("two", "Contoso.Two", object{"tags": object{"who": "[variables('who')]", "text": "[[y]"}})},
			})}},
			object{"type": "Microsoft.Compute/virtualMachines", "apiVersion": "2024-07-01", "name": "vm-01", "location": "westeurope", "tags": object{"made": "twice"}, "resources": []any{
				extensionOf("", "Contoso.Nobody", object{"type": "extensions", "name": "child", "dependsOn": []any{"[concat('Microsoft.Compute/virtualMachines/', 'vm-01')]", "nested"}}),
			}},
		},
	}), nil)
	if e := vm.extensions[2]; e.body.Tags["who"] != "outer" || e.body.Tags["text"] != "[y]" || vm.tags["made"] != "twice" {
		t.Errorf("tags %v of %s, and %v", e.body.Tags, e.name, vm.tags)
	}
	c.reports(many("m0"), many("m1"), handlerOf("Contoso.Two", "1.0.0", "Ready", 0, "").ext(1, "", "success", ""))
	if op := c.poll(header); op["status"] != "Failed" || !strings.Contains(fmt.Sprint(op), "/virtualMachines/vm-01/extensions/child") {
		t.Errorf("child: %v", op)
	}
}

// TestRelaxedJSON: azure-cli sends a template as it is, under a name without
// quotes.
func TestRelaxedJSON(t *testing.T) {
	_, _, c := testFabric(t)
	body := `{"properties": {"mode": "Incremental", "parameters": {"s": {"value": "hunter2"}}, template:` + string(encode(template(object{"parameters": object{"s": object{"type": "securestring"}}}))) + `}}`
	if code, _, answer := c.do("PUT", c.deployments("/cli"), map[string]string{"Content-Type": "application/json"}, []byte(body)); code != 201 {
		t.Errorf("put: %d %s", code, answer)
	}
	if journal := string(encode(c.vm.f.Journal(Query{Kind: Control}))); strings.Contains(journal, "hunter2") || !strings.Contains(journal, "Incremental") {
		t.Errorf("journal: %s", journal)
	}
}

// TestMisspeltMember: what is near to a known name is refused, unless it is one or
// has a mark.
func TestMisspeltMember(t *testing.T) {
	for key, refused := range map[string]bool{
		"dependsOn": false, "DEPENDSON": false, "dependOn": true, "depends": true, "options": false, "@options": false, "$options": false, "": false, "asserts": false,
	} {
		if got := misspeltMember([]string{key}, "TemplateResource", "resources[0]", templateResourceMembers); (got != "") != refused {
			t.Errorf("%q: %q", key, got)
		}
	}
}
